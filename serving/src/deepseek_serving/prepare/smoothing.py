"""Move outliers from activations into weights before both are quantised.

A few channels of a language model's activations are far larger than the others, and one scale for
all of them leaves the others few steps. SmoothQuant (Xiao et al., 2023) divides each channel by a
factor where it is made and multiplies the weights that read it, which changes nothing before
quantisation. The factors here are powers of two, so that neither operation rounds.

A channel is made by an RMS norm, whose weight is divided, or by the product that gates an MLP,
where the columns of the up projection are.

For INT8 only. FP8 has its three bits whatever the size of a value, and the factors did it no good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from deepseek_serving.prepare.passes import Matrix, Scaling, matrices
from deepseek_serving.prepare.tensors import Floats, open_weights

LARGEST_FACTOR = 2.0**8
ROWS = 1024


@dataclass(frozen=True)
class Smoothed:
    """Factors by which weights are multiplied, and the activations' magnitudes with them."""

    scaling: Scaling = field(default_factory=Scaling)
    largest: dict[str, float] = field(default_factory=dict)


def smooth(source: onnx.ModelProto, directory: Path, magnitudes: Mapping[str, Floats]) -> Smoothed:
    """Factors for the graph's weights from the largest magnitude of each channel."""
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    uses = Counter(name for node in source.graph.node for name in node.input)
    readers: dict[str, list[Matrix]] = {}
    for matrix in matrices(source):
        readers.setdefault(matrix.activation, []).append(matrix)
    result = Smoothed(largest=unsmoothed(magnitudes).largest)
    for activation, found in readers.items():
        channels = magnitudes[activation]
        made_by = _made_by(source, activation, uses)
        if made_by is not None and uses[activation] == len(found):
            weights = np.maximum.reduce(
                [_largest_of_rows(open_weights(directory, tensors[m.name])) for m in found]
            )
            factors = _factors(channels, weights)
            result.scaling.outputs[made_by] = np.reciprocal(factors)
            for matrix in found:
                result.scaling.inputs[matrix.name] = factors
            result.largest[activation] = float((channels / factors).max())
    return result


def unsmoothed(magnitudes: Mapping[str, Floats]) -> Smoothed:
    """No factors, and the magnitudes of the activations as they are."""
    return Smoothed(largest={name: float(found.max()) for name, found in magnitudes.items()})


def _made_by(source: onnx.ModelProto, activation: str, uses: Counter[str]) -> str | None:
    """The weight whose last axis is the activation's channels, if it serves nothing else."""
    producers = {output: node for node in source.graph.node for output in node.output}
    constants = {tensor.name for tensor in source.graph.initializer}
    node = producers.get(activation)
    if node is not None and node.op_type == "Mul":
        # silu(gate) * up: only the second is linear
        up = node.input[1]
        node = producers.get(up)
        if node is None or node.op_type != "MatMul" or uses[up] != 1:
            return None
    elif node is None or node.op_type != "RMSNormalization":
        return None
    weight = node.input[1]
    return weight if weight in constants and uses[weight] == 1 else None


def _largest_of_rows(weights: Floats) -> Floats:
    parts = range(0, weights.shape[0], ROWS)
    return np.concatenate([np.abs(weights[i : i + ROWS]).max(axis=1) for i in parts])


def _factors(channels: Floats, weights: Floats) -> Floats:
    """Powers of two near the root of the two magnitudes' ratio; one where either is zero."""
    known = (channels > 0) & (weights > 0)
    ratio = np.divide(channels, weights, out=np.ones_like(channels), where=known)
    # the root gives activations and weights equal parts of the difficulty
    factors = np.exp2(np.rint(np.log2(ratio) / 2))
    limited: Floats = np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR).astype(np.float32)
    return limited
