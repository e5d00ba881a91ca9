"""Run decoder graphs over texts: activation ranges for calibration, and the accuracy gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from deepseek_serving.errors import GateError, PrepareError
from deepseek_serving.prepare.corpus import Windows
from deepseek_serving.prepare.emulation import at_every_position, in_fp32, with_magnitudes
from deepseek_serving.prepare.golden import short
from deepseek_serving.prepare.passes import matrices
from deepseek_serving.prepare.precision import Thresholds
from deepseek_serving.prepare.tensors import Floats

Doubles = npt.NDArray[np.float64]
# rows of logits whose probabilities are in memory at a time
ROWS = 64
# fewer predictions prove nothing
FEWEST_PREDICTIONS = 200
METHOD = (
    "teacher-forced, FP32 graph against the prepared graph written out in FP32 for ONNX Runtime's "
    "CPU kernels: the prepared weights, every QuantizeLinear and DequantizeLinear, and the result "
    "of each operator rounded to its 16-bit type; sums inside an operator in FP32"
)


class Runner:
    """A graph in ONNX Runtime that reads one sequence at a time from an empty cache."""

    def __init__(self, model: onnx.ModelProto, directory: Path, length: int, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # constants are folded once; no fusion may take a rounding away
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(directory)
        )
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._caches = {}
        for value in self._session.get_inputs():
            if value.name.startswith("past_"):
                _batch, heads, _length, size = value.shape
                self._caches[value.name] = np.zeros((1, heads, length, size), dtype=np.float32)

    def run(self, tokens: Sequence[int]) -> list[Floats]:
        inputs = {
            "input_ids": np.array([tokens], dtype=np.int64),
            "position_ids": np.arange(len(tokens), dtype=np.int64)[None],
            "write_indices": np.zeros(1, dtype=np.int64),
            "valid_lengths": np.array([len(tokens)], dtype=np.int64),
        }
        outputs: list[Floats] = self._session.run(None, {**inputs, **self._caches})
        return outputs


def channel_magnitudes(
    source: onnx.ModelProto, directory: Path, texts: Windows, threads: int
) -> dict[str, Floats]:
    """The largest magnitudes over the texts of what the FP32 graph's matrices read, by channel."""
    names = list(dict.fromkeys(matrix.activation for matrix in matrices(source)))
    length = max(len(sequence) for sequence in texts.sequences)
    runner = Runner(with_magnitudes(source, names), directory, length, threads)
    largest: dict[str, Floats] = {}
    for sequence in texts.sequences:
        for name, values in zip(names, runner.run(sequence), strict=True):
            if not np.isfinite(values).all():
                raise PrepareError(f"the FP32 graph gives values at {name} that are not finite")
            largest[name] = np.maximum(largest.get(name, np.float32(0)), values)
    return largest


@dataclass
class _Sums:
    predictions: int = 0
    reference_loss: float = 0.0
    prepared_loss: float = 0.0
    agreed: int = 0
    divergences: list[Doubles] = field(default_factory=list)

    def add(self, reference: Floats, prepared: Floats, following: npt.NDArray[np.int64]) -> None:
        expected, found = _log_softmax(reference), _log_softmax(prepared)
        rows = np.arange(len(following))
        self.predictions += len(following)
        self.reference_loss -= float(expected[rows, following].sum())
        self.prepared_loss -= float(found[rows, following].sum())
        self.agreed += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        # rounding can make the divergence of equal distributions a little less than none
        divergence = (np.exp(expected) * (expected - found)).sum(axis=1)
        self.divergences.append(np.maximum(divergence, 0.0))


@dataclass(frozen=True)
class Result:
    """What the gate measured on the held-out text."""

    predictions: int
    reference_perplexity: float
    prepared_perplexity: float
    top1_agreement: float
    kl_mean: float
    kl_p99: float
    kl_largest: float

    def __str__(self) -> str:
        return (
            f"perplexity {self.prepared_perplexity:.4g} ({self.perplexity_increase:+.2%}), "
            f"top-1 agreement {self.top1_agreement:.2%}, mean KL divergence {self.kl_mean:.3g} "
            f"over {self.predictions} predictions"
        )

    @property
    def perplexity_increase(self) -> float:
        return self.prepared_perplexity / self.reference_perplexity - 1

    def record(self) -> dict[str, Any]:
        return {
            "predictions": self.predictions,
            "perplexity": {
                "fp32": short(self.reference_perplexity),
                "prepared": short(self.prepared_perplexity),
                "increase": short(self.perplexity_increase),
            },
            "top1_agreement": short(self.top1_agreement),
            "kl_divergence": {
                "mean": short(self.kl_mean),
                "p99": short(self.kl_p99),
                "largest": short(self.kl_largest),
            },
        }


def compare(
    reference: tuple[onnx.ModelProto, Path],
    prepared: tuple[onnx.ModelProto, Path],
    texts: Windows,
    threads: int,
    observe: Callable[[Sequence[int], Floats], None] | None = None,
) -> Result:
    """Both graphs, each with the directory of its weights, on every position of the texts.

    `observe` gets each window and what the prepared graph makes of it.
    """
    predictions = sum(len(sequence) - 1 for sequence in texts.sequences)
    if predictions < FEWEST_PREDICTIONS:
        raise PrepareError(
            f"the held-out text has {predictions} tokens to predict, at least {FEWEST_PREDICTIONS} "
            "are needed for a judgement; give more text"
        )
    length = max(len(sequence) for sequence in texts.sequences)
    expected = Runner(at_every_position(reference[0]), reference[1], length, threads)
    emulated = in_fp32(at_every_position(prepared[0]), length)
    found = Runner(emulated, prepared[1], length, threads)
    sums = _Sums()
    for sequence in texts.sequences:
        following = np.array(sequence[1:], dtype=np.int64)
        (first,), (second,) = expected.run(sequence), found.run(sequence)
        if not np.isfinite(first).all():
            raise PrepareError("the FP32 graph gives logits that are not finite")
        if not np.isfinite(second).all():
            raise GateError(
                "accuracy gate failed: the prepared graph gives logits that are not finite: its "
                "activations overflow the type; prepare it in bf16"
            )
        if observe is not None:
            observe(sequence, second)
        for part in _parts(len(following)):
            sums.add(first[part], second[part], following[part])
    return _result(sums)


def _result(sums: _Sums) -> Result:
    divergences = np.concatenate(sums.divergences)
    return Result(
        predictions=sums.predictions,
        reference_perplexity=math.exp(sums.reference_loss / sums.predictions),
        prepared_perplexity=math.exp(sums.prepared_loss / sums.predictions),
        top1_agreement=sums.agreed / sums.predictions,
        kl_mean=float(divergences.mean()),
        kl_p99=float(np.quantile(divergences, 0.99)),
        kl_largest=float(divergences.max()),
    )


def failures(result: Result, thresholds: Thresholds) -> list[str]:
    """What is beyond its threshold, with the option that sets it."""
    found = []
    if not result.perplexity_increase <= thresholds.perplexity_increase:
        found.append(
            f"perplexity {result.prepared_perplexity:.4g} against {result.reference_perplexity:.4g}"
            f" is {result.perplexity_increase:+.2%}, allowed {thresholds.perplexity_increase:+.2%} "
            "(--max-perplexity-increase)"
        )
    if not result.top1_agreement >= thresholds.top1_agreement:
        found.append(
            f"the most likely token is the same at {result.top1_agreement:.2%} of the positions, "
            f"asked for {thresholds.top1_agreement:.2%} (--min-top1-agreement)"
        )
    if not result.kl_mean <= thresholds.kl_divergence:
        found.append(
            f"mean KL divergence is {result.kl_mean:.4g}, allowed {thresholds.kl_divergence:g} "
            "(--max-kl-divergence)"
        )
    return found


def _log_softmax(logits: Floats) -> Doubles:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS):
        yield slice(start, min(start + ROWS, count))
