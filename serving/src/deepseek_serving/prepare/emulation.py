"""Graphs for the ONNX Runtime CPU kernels that show what a decoder computes at every position.

The CPU provider has no BF16 kernels for most operators of a decoder, and no matrix product in FP8.
So that every precision is judged in the same way, a prepared graph is not run as it is but written
out in FP32: each stored weight is the very one that was prepared, each Quantize/DequantizeLinear is
executed, and the result of each operator is rounded to the 16-bit type that it has in the prepared
graph. Sums inside an operator are FP32. That is how GPUs compute: products of small types, sums in
larger ones, results rounded. What differs on a GPU is the order of sums and its approximations of
exp and division. The cache is as long as the text that is read, not as the prepared one; what lies
beyond a position is masked in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from deepseek_serving.errors import PrepareError
from deepseek_serving.prepare.passes import CACHE_LENGTH, CACHE_POSITIONS

NARROW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
# they move values and compute none, so that there is nothing to round
MOVES = frozenset({"Gather", "Reshape", "Transpose", "TensorScatter"})


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def at_every_position(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose only output is `logits` [batch * sequence, vocabulary].

    The exported graph goes on with the last position alone; here all of them do.
    """
    changed = copy(model)
    graph = changed.graph
    producers = {output: node for node in graph.node for output in node.output}
    top = next(node for node in graph.node if node.op_type == "TopK")
    logits = top.input[0]
    node = producers.get(logits)
    while node is not None and not (node.op_type == "Gather" and _axis(node) == 1):
        node = producers.get(node.input[0])
    if node is None:
        raise PrepareError("the graph has no Gather of the last position before its TopK")
    width = _last_dimension(model, node.input[0])
    shape = numpy_helper.from_array(np.array([-1, width], dtype=np.int64), "every_position")
    graph.initializer.append(shape)
    hidden, output = node.input[0], node.output[0]
    node.CopyFrom(helper.make_node("Reshape", [hidden, shape.name], [output], name=node.name))
    graph.node.remove(top)
    del graph.output[:], graph.value_info[:]
    graph.output.append(
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["positions", "vocabulary"])
    )
    return changed


def with_magnitudes(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose only outputs are the largest magnitudes in each channel of the named values."""
    changed = copy(model)
    graph = changed.graph
    del graph.output[:], graph.value_info[:]
    axes = numpy_helper.from_array(np.array([0, 1], dtype=np.int64), "batch_and_sequence")
    graph.initializer.append(axes)
    for name in names:
        magnitude, largest = f"{name}/magnitude", f"{name}/largest"
        graph.node.append(helper.make_node("Abs", [name], [magnitude], name=magnitude))
        graph.node.append(
            helper.make_node("ReduceMax", [magnitude, axes.name], [largest], largest, keepdims=0)
        )
        graph.output.append(
            helper.make_tensor_value_info(largest, TensorProto.FLOAT, [f"{name}/channels"])
        )
    return changed


def in_fp32(model: onnx.ModelProto, length: int) -> onnx.ModelProto:
    """A copy of a prepared graph that computes in FP32 and rounds as the prepared graph does.

    `length` is that of the cache which it is given.
    """
    types = _types(model)
    changed = copy(model)
    graph = changed.graph
    for value in graph.input:
        kind = value.type.tensor_type
        if kind.elem_type in NARROW:
            kind.elem_type = TensorProto.FLOAT
            kind.shape.dim[CACHE_LENGTH].dim_value = length
    nodes = []
    for tensor in graph.initializer:
        if tensor.name == CACHE_POSITIONS:
            tensor.CopyFrom(numpy_helper.from_array(np.arange(length), CACHE_POSITIONS))
        elif tensor.data_type in NARROW:
            nodes.append(_cast(tensor.name, f"{tensor.name}/wide", TensorProto.FLOAT))
    widened = {node.input[0]: node.output[0] for node in nodes}
    for node in graph.node:
        nodes.extend(_rounded(node, widened, types))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return changed


def _rounded(
    node: onnx.NodeProto, widened: dict[str, str], types: dict[str, int]
) -> list[onnx.NodeProto]:
    """The node on FP32 values, and what rounds its results."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    inputs = [widened.get(name, name) for name in node.input]
    if node.op_type == "Cast":
        # it widens what is wide here already
        return [helper.make_node("Identity", inputs, node.output, name=node.name)]
    del wide.input[:]
    wide.input.extend(inputs)
    nodes = [wide]
    for place, name in enumerate(node.output):
        if types.get(name) in NARROW and node.op_type not in MOVES:
            wide.name = wide.output[place] = f"{name}/exact"
            nodes.append(_cast(f"{name}/exact", f"{name}/rounded", types[name]))
            nodes.append(_cast(f"{name}/rounded", name, TensorProto.FLOAT))
    return nodes


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    return {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }


def _cast(name: str, output: str, data_type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [output], name=output, to=data_type)


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _last_dimension(model: onnx.ModelProto, name: str) -> int:
    graph = shape_inference.infer_shapes(model).graph
    for value in graph.value_info:
        if value.name == name and value.type.tensor_type.shape.dim:
            return int(value.type.tensor_type.shape.dim[-1].dim_value)
    raise PrepareError(f"the width of {name!r} cannot be inferred")
