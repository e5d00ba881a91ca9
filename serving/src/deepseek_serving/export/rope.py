"""Rotary positions: how fast each pair of dimensions turns, and how scaling changes that.

A scaling is a function in `SCALINGS`. One that is not there is refused by its name, and so is a
parameter that the scaling does not know: ignoring either would give wrong answers without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.config import Config, flag, real, whole

DEFAULT_THETA = 10_000.0
COMMON_KEYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
Frequencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rope:
    """Radians per position for each pair of dimensions; cosines and sines times `factor`."""

    kind: str
    theta: float
    frequencies: tuple[float, ...]
    factor: float = 1.0

    def tables(self, max_len: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Cosines and sines [max_len, pairs], with the angles rounded to FP32 as in training."""
        frequencies = np.array(self.frequencies, dtype=np.float32)
        angles = np.outer(np.arange(max_len, dtype=np.float32), frequencies).astype(np.float64)
        cosines, sines = np.cos(angles) * self.factor, np.sin(angles) * self.factor
        return cosines.astype(np.float32), sines.astype(np.float32)


@dataclass(frozen=True)
class _Asked:
    """What a scaling works on."""

    parameters: Config
    theta: float
    frequencies: Frequencies
    max_positions: int

    @property
    def original(self) -> int:
        """The context length before scaling."""
        return whole(self.parameters, "original_max_position_embeddings", self.max_positions)


def _default(asked: _Asked) -> tuple[Frequencies, float]:
    return asked.frequencies, 1.0


def _linear(asked: _Asked) -> tuple[Frequencies, float]:
    return asked.frequencies / real(asked.parameters, "factor"), 1.0


def _llama3(asked: _Asked) -> tuple[Frequencies, float]:
    """Llama 3.1: waves longer than the old context are slowed down, short ones are kept."""
    low = real(asked.parameters, "low_freq_factor")
    high = real(asked.parameters, "high_freq_factor")
    if high <= low:
        raise CheckpointError(
            f"config.json: high_freq_factor {high} must be above low_freq_factor {low}"
        )
    turns = asked.original * asked.frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    slowed = asked.frequencies / real(asked.parameters, "factor")
    return kept * asked.frequencies + (1 - kept) * slowed, 1.0


def _yarn(asked: _Asked) -> tuple[Frequencies, float]:
    """YaRN (arXiv 2309.00071): interpolates slow pairs, keeps fast ones, a ramp between them."""
    original = asked.original
    scale = real(asked.parameters, "factor", asked.max_positions / original)
    pairs = len(asked.frequencies)

    def pair_with(turns: float) -> float:
        """The pair (not whole) that makes that many turns within the original context."""
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(asked.theta)

    first = pair_with(real(asked.parameters, "beta_fast", 32))
    last = pair_with(real(asked.parameters, "beta_slow", 1))
    if flag(asked.parameters, "truncate", default=True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    # the same width as elsewhere where the ramp has none
    width = last - first or 0.001
    slowed = np.clip((np.arange(pairs) - first) / width, 0.0, 1.0)
    frequencies = asked.frequencies * (1 - slowed) + asked.frequencies / scale * slowed
    return frequencies, _yarn_attention(asked.parameters, scale)


def _yarn_attention(parameters: Config, scale: float) -> float:
    """The factor of cosines and sines, which sharpens attention over a longer context.

    `attention_factor` is the factor itself. `attn_factor`, which DeepSeek-R1-0528-Qwen3-8B has,
    multiplies the factor that follows from the scale, as vLLM reads it; there the product is 1.
    """
    if parameters.get("attention_factor") is not None:
        return real(parameters, "attention_factor")

    def sharpening(weight: float) -> float:
        return 0.1 * weight * math.log(scale) + 1.0 if scale > 1 else 1.0

    factor = sharpening(1.0)
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        factor = sharpening(real(parameters, "mscale")) / sharpening(
            real(parameters, "mscale_all_dim")
        )
    return factor * real(parameters, "attn_factor", 1.0)


Scaling = Callable[[_Asked], tuple[Frequencies, float]]
# by name: the function, and the parameters that it knows beside the common ones
SCALINGS: Mapping[str, tuple[Scaling, frozenset[str]]] = {
    "default": (_default, frozenset()),
    "linear": (_linear, frozenset({"factor"})),
    "llama3": (
        _llama3,
        frozenset(
            {
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            }
        ),
    ),
    "yarn": (
        _yarn,
        frozenset(
            {
                "factor",
                "original_max_position_embeddings",
                "attention_factor",
                "attn_factor",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
                "truncate",
            }
        ),
    ),
}


def read_rope(config: Config, head_dim: int, max_positions: int) -> Rope:
    """What config.json says, in rope_parameters or, in older files, in rope_scaling and beside."""
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(parameters, Mapping):
        raise CheckpointError(f"config.json: rotary scaling is no object, it is {parameters!r}")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise CheckpointError(
            f"config.json: rotary scaling {kind!r} is not supported; "
            f"supported: {', '.join(SCALINGS)}"
        )
    scaling, known = SCALINGS[kind]
    unknown = sorted(set(parameters) - known - COMMON_KEYS)
    if unknown:
        raise CheckpointError(
            f"config.json: rotary scaling {kind!r} with {', '.join(unknown)} is not supported; "
            f"supported with it: {', '.join(sorted(known)) or 'nothing'}"
        )
    for source in (config, parameters):
        if real(source, "partial_rotary_factor", 1.0) != 1.0:
            raise CheckpointError(
                "config.json: partial_rotary_factor is not supported; all of a head is rotated"
            )
    source = parameters if parameters.get("rope_theta") is not None else config
    theta = real(source, "rope_theta", DEFAULT_THETA)
    if theta <= 1:
        raise CheckpointError(f"config.json: rope_theta must be above 1, it is {theta}")
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies, factor = scaling(_Asked(parameters, theta, theta**-exponents, max_positions))
    return Rope(kind, theta, tuple(float(value) for value in frequencies), factor)
