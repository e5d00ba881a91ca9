"""The decoder for the processor: ONNX Runtime's own operators over FP32.

Beside what `fused` does, 16-bit numbers become FP32, since the processor computes with nothing
shorter and would convert them at every step, and a product with a matrix in blocks of 4 bits
becomes MatMulNBits, which reads them as they are. No weight changes its value: FP32 holds every
number of 16 bits, and a block keeps its steps and its scale. MatMulNBits rounds activations to 8
bits, in blocks of the same size (its accuracy level 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime.fused import DOMAIN, QUANTIZED, Joined, fused

Array = npt.NDArray[np.generic]
HALVES: Mapping[int, np.dtype[np.generic]] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
# the activations of a block as integers of 8 bits
ACCURACY_LEVEL = 4
# MatMulNBits keeps 0 to 15, of which this one is zero
ZERO = 8
SMALLEST_BLOCK = 16
# the cache is [batch, kv_heads, max_len, head_dim]
CACHE_AXIS, HEAD_AXIS = 2, 3
HEAD_STEP = 16


@dataclass(frozen=True)
class Dialect:
    """The graph, and those of its weights that are not in the source's file as they are.

    Each weight is made when it is asked for, so that only one is held beside those of the session.
    """

    model: onnx.ModelProto
    weights: Sequence[tuple[str, Callable[[], Array]]]


def for_the_processor(graph: Path) -> Dialect:
    """The decoder at `graph`, rewritten.

    EngineError if it is not as deepseek-export makes it, or has heads of a size without a kernel.
    """
    source = onnx.load(graph, load_external_data=False)
    _check(source)
    changed = _Changed(source, graph.parent)
    made = fused(changed.model(), None)
    needed = {tensor.name for tensor in made.model.graph.initializer}
    weights = [(name, make) for name, make in changed.weights.items() if name in needed]
    weights += [
        (name, partial(changed.joined, joined))
        for name, joined in made.joined.items()
        if name in needed
    ]
    return Dialect(made.model, weights)


def _check(model: onnx.ModelProto) -> None:
    if not any(node.op_type == "Attention" for node in model.graph.node):
        raise EngineError("it has no Attention; deepseek-export writes decoders with it")
    for value in model.graph.input:
        size = value.type.tensor_type.shape.dim[HEAD_AXIS].dim_value if _is_cache(value) else 0
        if size % HEAD_STEP:
            raise EngineError(
                f"its heads have {size} elements, GroupQueryAttention takes multiples of "
                f"{HEAD_STEP}"
            )


def _is_cache(value: onnx.ValueInfoProto) -> bool:
    return value.name.startswith(("past_", "present_"))


class _Changed:
    """The source with FP32 in place of 16 bits and MatMulNBits in place of what it does."""

    def __init__(self, source: onnx.ModelProto, directory: Path) -> None:
        self._source, self._directory = source, directory
        self._tensors = {tensor.name: tensor for tensor in source.graph.initializer}
        self._makers = {output: node for node in source.graph.node for output in node.output}
        self.weights: dict[str, Callable[[], Array]] = {}
        self._constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        changed = onnx.ModelProto()
        changed.CopyFrom(self._source)
        graph = changed.graph
        del graph.node[:], graph.initializer[:]
        for node in self._source.graph.node:
            graph.node.extend(self._nodes(node))
        graph.initializer.extend(self._source.graph.initializer)
        graph.initializer.extend(self._constants.values())
        for value in (*graph.input, *graph.output):
            kind = value.type.tensor_type
            if kind.elem_type in HALVES:
                kind.elem_type = TensorProto.FLOAT
            if _is_cache(value):
                # a prepared graph has a fixed one, as TensorRT asks for
                kind.shape.dim[CACHE_AXIS].dim_param = "max_len"
        return changed

    def joined(self, joined: Joined) -> Array:
        parts = []
        for name in joined.parts:
            make = self.weights.get(name)
            parts.append(make() if make else self._stored(self._tensors[name]))
        return np.concatenate(parts, axis=joined.axis)

    def _nodes(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        block = self._block(node)
        if block is not None:
            return [self._by_blocks(node, block)]
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if node.op_type == "Gather" and self._is_half(node.input[0]):
            # of a long table few rows are read: they are converted, not all of it
            changed.output[0] = f"{node.output[0]}/narrow"
            to = helper.make_node(
                "Cast", [changed.output[0]], node.output, f"{node.name}/wide", to=TensorProto.FLOAT
            )
            return [changed, to]
        changed.input[:] = [
            self._widen(name) if self._is_half(name) else name for name in node.input
        ]
        return [changed]

    def _is_half(self, name: str) -> bool:
        return name in self._tensors and self._tensors[name].data_type in HALVES

    def _widen(self, name: str) -> str:
        """The name of the same weight in FP32."""
        tensor, wide = self._tensors[name], f"{name}/wide"
        if tensor.data_location == TensorProto.EXTERNAL:
            self.weights[wide] = lambda: self._widened(tensor)
            self._place(tensor, wide, TensorProto.FLOAT, tuple(tensor.dims))
        else:
            self._constants[wide] = numpy_helper.from_array(self._widened(tensor), wide)
        return wide

    def _by_blocks(self, node: onnx.NodeProto, block: int) -> onnx.NodeProto:
        matrix, scale = (self._tensors[name] for name in self._makers[node.input[1]].input)
        inputs, outputs = matrix.dims
        steps, scales = f"{matrix.name}/steps", f"{matrix.name}/scales"
        self.weights[steps] = lambda: self._steps(matrix, block)
        self.weights[scales] = lambda: np.ascontiguousarray(self._widened(scale).T)
        shape = (outputs, inputs // block)
        self._place(scale, scales, TensorProto.FLOAT, shape)
        self._place(matrix, steps, TensorProto.UINT8, (*shape, block // 2))
        return helper.make_node(
            QUANTIZED,
            [node.input[0], steps, scales],
            list(node.output),
            name=node.name,
            domain=DOMAIN,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=block,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _block(self, product: onnx.NodeProto) -> int | None:
        """The size of its matrix's blocks, if it is one that MatMulNBits multiplies by."""
        if product.op_type != "MatMul":
            return None
        node = self._makers.get(product.input[1])
        if node is None or node.op_type != "DequantizeLinear" or len(node.input) != 2:
            return None
        matrix = self._tensors.get(node.input[0])
        if matrix is None or matrix.data_type != TensorProto.INT4 or len(matrix.dims) != 2:
            return None
        attributes: dict[str, int] = {a.name: a.i for a in node.attribute}
        block = attributes.get("block_size", 0)
        if attributes.get("axis") != 0 or block < SMALLEST_BLOCK or matrix.dims[0] % block:
            return None
        return block

    def _place(
        self, like: onnx.TensorProto, name: str, data_type: int, shape: tuple[int, ...]
    ) -> None:
        """For a weight that the session is given; its place in a file is another's."""
        tensor = onnx.TensorProto()
        tensor.CopyFrom(like)
        tensor.name, tensor.data_type = name, data_type
        tensor.dims[:] = shape
        self._constants[name] = tensor

    def _widened(self, tensor: onnx.TensorProto) -> npt.NDArray[np.float32]:
        return self._stored(tensor).astype(np.float32)

    def _steps(self, matrix: onnx.TensorProto, block: int) -> npt.NDArray[np.uint8]:
        """[outputs, blocks, block / 2], two steps in a byte, the first in its lower half."""
        inputs, outputs = matrix.dims
        packed = self._bytes(matrix)
        steps = np.empty(2 * packed.size, dtype=np.uint8)
        # from -8 to 7 in two's complement to 0 to 15
        np.bitwise_and(packed ^ (ZERO | ZERO << 4), 0x0F, out=steps[0::2])
        np.right_shift(packed ^ (ZERO | ZERO << 4), 4, out=steps[1::2])
        by_output = np.ascontiguousarray(steps[: inputs * outputs].reshape(inputs, outputs).T)
        pairs = by_output.reshape(outputs, inputs // block, block)
        return (pairs[..., 0::2] | pairs[..., 1::2] << 4).astype(np.uint8, copy=False)

    def _stored(self, tensor: onnx.TensorProto) -> Array:
        kind = HALVES.get(tensor.data_type) or helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return self._bytes(tensor).view(kind).reshape(tensor.dims)

    def _bytes(self, tensor: onnx.TensorProto) -> npt.NDArray[np.uint8]:
        if tensor.data_location != TensorProto.EXTERNAL:
            return np.frombuffer(tensor.raw_data, dtype=np.uint8)
        place = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self._directory / place["location"],
            dtype=np.uint8,
            mode="r",
            offset=int(place["offset"]),
            shape=(int(place["length"]),),
        )
