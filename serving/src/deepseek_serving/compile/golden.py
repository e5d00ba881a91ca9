"""An engine against its golden answers, on the host that is to serve it.

What the accuracy gate judged was the graph. This asks whether the engine, the driver and the GPU
at hand give the same answers: each sequence is read half as one chunk, and half token by token
together with the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime import Candidates, Engine

DEFAULT_AGREEMENT = 0.95


@dataclass
class Agreement:
    """Positions compared, those with the same best token, the largest difference of its logit."""

    positions: int = 0
    agreed: int = 0
    difference: float = 0.0

    @property
    def share(self) -> float:
        return self.agreed / self.positions

    def add(self, golden: Mapping[str, Any], position: int, found: Candidates, row: int) -> None:
        self.positions += 1
        best = int(golden["top_indices"][position][0])
        if int(found.tokens[row, 0]) == best:
            self.agreed += 1
        expected = float(golden["top_values"][position][0])
        difference = abs(float(found.values[row, 0]) - expected)
        # not max(): a NaN must not be lost
        if not difference <= self.difference:
            self.difference = difference

    def record(self) -> dict[str, float]:
        return {**asdict(self), "share": round(self.share, 4)}


def read_golden(path: Path) -> Sequence[Mapping[str, Any]]:
    """The sequences of a decoder's golden.json; raises EngineError."""
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
        kind, sequences = golden["kind"], golden["sequences"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: cannot be read as golden answers: {error!r}") from error
    if kind != "decoder" or not any(len(sequence["input"]) > 1 for sequence in sequences):
        raise EngineError(f"{path}: holds no golden answers of a decoder")
    kept: Sequence[Mapping[str, Any]] = [s for s in sequences if len(s["input"]) > 1]
    return kept


def compare(engine: Engine, sequences: Sequence[Mapping[str, Any]]) -> Agreement:
    """Run the sequences, as many at once as the engine has slots."""
    agreement = Agreement()
    for first in range(0, len(sequences), engine.slots):
        _compare_batch(engine, sequences[first : first + engine.slots], agreement)
    return agreement


def _compare_batch(
    engine: Engine, sequences: Sequence[Mapping[str, Any]], agreement: Agreement
) -> None:
    engine.reset()
    lengths = []
    for slot, golden in enumerate(sequences):
        tokens = golden["input"]
        half = len(tokens) // 2
        agreement.add(golden, half - 1, engine.prefill(slot, tokens[:half], 0), 0)
        lengths.append(half)
    while any(length < len(s["input"]) for length, s in zip(lengths, sequences, strict=True)):
        # one that is at its end repeats its last token where it wrote it
        places = [min(n, len(s["input"]) - 1) for n, s in zip(lengths, sequences, strict=True)]
        given = [s["input"][place] for place, s in zip(places, sequences, strict=True)]
        found = engine.decode(given, places)
        for row, (golden, place) in enumerate(zip(sequences, places, strict=True)):
            if lengths[row] < len(golden["input"]):
                agreement.add(golden, place, found, row)
                lengths[row] += 1


def check(agreement: Agreement, least: float, where: str) -> None:
    """EngineError if the answers are too far from the golden ones."""
    if not agreement.share >= least or agreement.difference != agreement.difference:
        raise EngineError(
            f"smoke test failed: {where} gives the golden best token at {agreement.agreed} of "
            f"{agreement.positions} positions ({agreement.share:.1%}, asked for {least:.1%}), "
            f"largest difference of its logit {agreement.difference:.3g}; it must not serve. "
            "Check the GPU and the driver, then build the engine again"
        )
