# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The precisions that a release has beside fp32: what may be asked for, and what each needs.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXPORTED = "fp32"
# Whether activations are quantised, so that a calibration text is needed. The tests compare this with deepseek-prepare's own.
PREPARED = {"fp16": False, "bf16": False, "int8": True, "int4": False, "fp8": True}
BLOCKWISE = "int4"
SMALLEST_BLOCK = 16
THRESHOLDS = ("max_perplexity_increase", "min_top1_agreement", "max_kl_divergence")


@dataclass(frozen=True)
class Precision:
    """A precision to publish: the texts on the release host, and what is not left to deepseek-prepare."""

    name: str
    held_out: str
    calibration: str | None = None
    block_size: int | None = None
    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None
    max_kl_divergence: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What deepseek-prepare is asked for, but the texts."""
        return {name: getattr(self, name) for name in ("block_size", *THRESHOLDS)}

    @property
    def texts(self) -> dict[str, str]:
        """The files that are read."""
        texts = {"held_out": self.held_out}
        if self.calibration is not None:
            texts["calibration"] = self.calibration
        return texts


def precisions_option() -> dict[str, Any]:
    """The option of that name, as in the documentation fragment."""
    options: dict[str, Any] = {
        "name": {"type": "str", "required": True, "choices": list(PREPARED)},
        "held_out": {"type": "path", "required": True},
        "calibration": {"type": "path"},
        "block_size": {"type": "int"},
    }
    options.update({name: {"type": "float"} for name in THRESHOLDS})
    return {"type": "list", "elements": "dict", "default": [], "options": options}


def parse_precisions(value: Sequence[Mapping[str, Any]]) -> tuple[Precision, ...]:
    """What the module was asked for."""
    return tuple(Precision(**item) for item in value)


def precision_problems(
    precisions: Sequence[Precision], export: bool = True
) -> Iterator[tuple[str, str, str]]:
    """(where, what, remedy) of everything for which deepseek-prepare would refuse, before it has worked for hours.

    Without *export* there is no graph to prepare.
    """
    if precisions and not export:
        yield (
            ", ".join(precision.name for precision in precisions),
            "precisions are made from the exported graph, and none is exported",
            "leave deepseek_precisions out, or deepseek_export",
        )
    names = [precision.name for precision in precisions]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield name, "this precision is listed more than once", "keep one entry for it"
    for precision in precisions:
        yield from _option_problems(precision)
        for what, path in precision.texts.items():
            yield from _text_problems(precision.name, what, path)


def _option_problems(precision: Precision) -> Iterator[tuple[str, str, str]]:
    name, quantised = precision.name, PREPARED[precision.name]
    if quantised and precision.calibration is None:
        yield (
            name,
            "it quantises activations and has no calibration text: their scales are measured, never invented",
            "name a file of texts on the release host as its 'calibration'",
        )
    if not quantised and precision.calibration is not None:
        yield (
            name,
            "it quantises no activations and has a calibration text",
            "leave 'calibration' out",
        )
    if precision.calibration == precision.held_out:
        yield (
            name,
            "it is calibrated with the text that it is judged on",
            "hold out other texts than those calibrated with",
        )
    size = precision.block_size
    if size is not None and name != BLOCKWISE:
        yield name, "it has no blocks", "leave 'block_size' out"
    elif size is not None and (size < SMALLEST_BLOCK or size & (size - 1)):
        yield (
            name,
            f"its block_size is {size}",
            f"give a power of two that is at least {SMALLEST_BLOCK}",
        )
    for threshold in THRESHOLDS:
        value = getattr(precision, threshold)
        if value is not None and not value >= 0:
            yield name, f"its {threshold} is {value}", "give a number that is not negative"


def _text_problems(name: str, what: str, path: str) -> Iterator[tuple[str, str, str]]:
    try:
        empty = os.path.getsize(path) == 0
        if not os.path.isfile(path):
            yield path, f"the {what} text of {name} is not a file", "name a file, one text per line"
            return
        with open(path, "rb"):
            pass
    except OSError as error:
        yield (
            path,
            f"the {what} text of {name} cannot be read: {error.strerror}",
            "put the file on the release host",
        )
        return
    if empty:
        yield path, f"the {what} text of {name} is empty", "write one text per line"
