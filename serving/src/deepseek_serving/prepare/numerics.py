"""Rounding of weights to smaller types, a bounded part of a tensor at a time.

All schemes are symmetric, as TensorRT asks for. A scale is first rounded to FP16, the type in which
the graph keeps it, and the weights are then quantised with the rounded scale: what is stored is
what was computed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from deepseek_serving.errors import PrepareError
from deepseek_serving.prepare.tensors import Array, Floats

Half = npt.NDArray[np.float16]
BLOCK_BYTES = 64 * 2**20
# the largest magnitude; that of integers is symmetric
LARGEST: dict[int, float] = {
    TensorProto.INT8: 127.0,
    TensorProto.INT4: 7.0,
    TensorProto.FLOAT8E4M3FN: 448.0,
    TensorProto.FLOAT16: 65504.0,
    TensorProto.BFLOAT16: 255 * 2.0**120,
}
NUMPY_TYPES: dict[int, np.dtype[np.generic]] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.INT4: np.dtype(ml_dtypes.int4),
    TensorProto.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
}
# Shares of a block's largest magnitude that are tried as the end of the INT4 range. Cutting off a
# block's one large weight often costs less than the coarser steps that keep it.
CLIPPING = tuple(share / 100 for share in range(100, 58, -3))


@dataclass(frozen=True)
class Quantized:
    """Quantised values, and the FP16 scale of each column, block of a column, or of all."""

    values: Array
    scale: Half


def convert(name: str, values: Floats, data_type: int) -> Iterator[Array]:
    """FP32 values rounded to a 16-bit type, in bounded blocks; overflow is refused."""
    kind = NUMPY_TYPES[data_type]
    largest = LARGEST[data_type]
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK_BYTES // 4):
        block = flat[start : start + BLOCK_BYTES // 4]
        found = float(np.abs(block).max())
        if not found <= largest:
            raise PrepareError(
                f"weight {name!r} holds {found:g}, the largest that {kind} can hold is "
                f"{largest:g}; prepare the graph in another precision"
            )
        yield block.astype(kind)


def half_scale(largest: Floats, data_type: int) -> Half:
    """FP16 steps for values up to `largest`; rounded up, so that rounding does not cut them off."""
    exact = np.asarray(largest, dtype=np.float64) / LARGEST[data_type]
    rounded = exact.astype(np.float16)
    rounded = np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded)
    # a column of zeros may have any step
    return np.where(rounded > 0, rounded, np.float16(1)).astype(np.float16)


def quantize(values: Floats, scale: Half, data_type: int) -> Array:
    """Steps of `scale`, rounded to nearest even and kept in the range of the type."""
    steps = values / scale.astype(np.float32)
    limit = np.float32(LARGEST[data_type])
    if data_type == TensorProto.FLOAT8E4M3FN:
        return np.clip(steps, -limit, limit).astype(ml_dtypes.float8_e4m3fn)
    low = -limit - 1 if data_type == TensorProto.INT4 else -limit
    return np.clip(np.rint(steps), low, limit).astype(np.int8)


@dataclass(frozen=True)
class Scaled:
    """A matrix [inputs, outputs] whose rows and columns are multiplied when they are read."""

    weights: Floats
    inputs: Floats | None = None
    outputs: Floats | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weights.shape

    def columns(self, part: slice) -> Floats:
        block = np.array(self.weights[:, part], dtype=np.float32)
        if self.inputs is not None:
            block *= self.inputs[:, None]
        if self.outputs is not None:
            block *= self.outputs[part]
        return block


def by_column(weights: Scaled, data_type: int) -> Quantized:
    """[inputs, outputs] with one scale for each output."""
    values = np.empty(weights.shape, dtype=NUMPY_TYPES[data_type])
    scale = np.empty(weights.shape[1], dtype=np.float16)
    for part in _column_parts(weights.shape):
        block = weights.columns(part)
        scale[part] = half_scale(np.abs(block).max(axis=0), data_type)
        values[:, part] = quantize(block, scale[part], data_type)
    return Quantized(values, scale)


def by_block(weights: Scaled, size: int) -> Quantized:
    """INT4 [inputs, outputs] with one scale for each `size` inputs of each output."""
    inputs, outputs = weights.shape
    values = np.empty(weights.shape, dtype=np.int8)
    scale = np.empty((inputs // size, outputs), dtype=np.float16)
    for part in _column_parts(weights.shape):
        blocks = weights.columns(part).reshape(inputs // size, size, -1)
        scale[:, part] = _best_scale(blocks)
        quantized = quantize(blocks, scale[:, None, part], TensorProto.INT4)
        values[:, part] = quantized.reshape(inputs, -1)
    return Quantized(values, scale)


def _best_scale(blocks: Floats) -> Half:
    """For each block [number, size, outputs], the step with the least squared error."""
    largest = np.abs(blocks).max(axis=1)
    best = half_scale(largest, TensorProto.INT4)
    least = _squared_error(blocks, best)
    for share in CLIPPING[1:]:
        scale = half_scale(largest * np.float32(share), TensorProto.INT4)
        error = _squared_error(blocks, scale)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _squared_error(blocks: Floats, scale: Half) -> Floats:
    steps = quantize(blocks, scale[:, None, :], TensorProto.INT4).astype(np.float32)
    error: Floats = np.square(blocks - steps * scale[:, None, :]).sum(axis=1)
    return error


def _column_parts(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, BLOCK_BYTES // (4 * shape[0]))
    for start in range(0, shape[1], step):
        yield slice(start, min(start + step, shape[1]))


def packed(values: Array) -> Array:
    """INT4 as ONNX stores it: two in a byte, the first in the lower half."""
    flat = values.reshape(-1).astype(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)
