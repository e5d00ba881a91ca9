"""What the graphs are made with: nodes with names that can be foretold, and weights kept outside.

The same checkpoint gives the same bytes, since names and order follow from the code alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from deepseek_serving.errors import CheckpointError
from deepseek_serving.model_files.safetensors import ITEM_BYTES, Tensor

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Weight:
    """An initializer kept outside the protobuf, turned over if the checkpoint has it [out, in]."""

    name: str
    source: Tensor | npt.NDArray[np.float32]
    shape: tuple[int, ...]
    transposed: bool = False

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """The weight's bytes in order, in blocks of bounded size whatever the weight's is."""
        if isinstance(self.source, np.ndarray):
            yield self.source
            return
        row_bytes = 4 * int(np.prod(self.shape[1:], dtype=np.int64))
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            if self.transposed:
                yield np.ascontiguousarray(self.source.columns(start, stop).T)
            else:
                yield self.source.rows(start, stop)


class GraphBuilder:
    """Collects nodes and weights; every operation returns the name of its output."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.weights: dict[str, Weight] = {}

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def shape(self, *sizes: int) -> str:
        name = "shape_" + "_".join(str(size) for size in sizes)
        return self.constant(name, np.array(sizes, dtype=np.int64))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """A small value, kept in the graph itself."""
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, key: str, shape: tuple[int, ...], *, transposed: bool = False) -> str:
        """The checkpoint's tensor `key`, whose shape must be `shape`."""
        tensor = self._tensors.get(key)
        if tensor is None:
            raise CheckpointError(
                f"the checkpoint has no tensor {key!r}, which config.json asks for"
            )
        if tensor.dtype not in ITEM_BYTES:
            raise CheckpointError(
                f"{tensor.file}: tensor {key!r} is {tensor.dtype}; "
                f"supported: {', '.join(sorted(ITEM_BYTES))}"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {key!r} is {list(tensor.shape)}, "
                f"config.json makes it {list(shape)}"
            )
        self.weights[key] = Weight(key, tensor, shape[::-1] if transposed else shape, transposed)
        return key

    def table(self, name: str, values: npt.NDArray[np.float32]) -> str:
        self.weights[name] = Weight(name, values, values.shape)
        return name

    def linear(self, x: str, prefix: str, sizes: tuple[int, int], *, bias: bool = False) -> str:
        """Multiply x by the transpose of the checkpoint's [out, in] weight, and add its bias."""
        outputs, inputs = sizes
        weight = self.weight(f"{prefix}.weight", (outputs, inputs), transposed=True)
        y = self.op("MatMul", [x, weight], f"{prefix}/matmul")
        if bias:
            y = self.op("Add", [y, self.weight(f"{prefix}.bias", (outputs,))], f"{prefix}/add")
        return y

    def split_heads(self, x: str, count: int, size: int) -> str:
        """[batch, sequence, count * size] to [batch, sequence, count, size]."""
        return self.op("Reshape", [x, self.shape(0, 0, count, size)], f"{x}/split")

    def model(
        self,
        name: str,
        opset: int,
        ir_version: int,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """The graph without its weights."""
        graph = helper.make_graph(
            self.nodes, name, inputs, outputs, initializer=list(self.constants.values())
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="deepseek-export",
        )
