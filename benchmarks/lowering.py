"""A decoder of deepseek-export in operators of opset 17, which TensorRT 8.6 knows.

Only for measuring: TensorRT 8.6 has neither Attention nor an update of a cache in place, so that
what comes out computes the same and is slower. It serves to run the decoder's runtime on GPUs for
which no newer TensorRT is at hand. The cache gets the fixed length that the record names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
CACHE_LENGTH = 2
MASKED = -1e4


class Lowering:
    """Collects the nodes of the new graph in their order."""

    def __init__(self, model: onnx.ModelProto, max_len: int) -> None:
        self.model, self.max_len = model, max_len
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.made: set[str] = set()

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """The output of a node that is added once, however often it is asked for."""
        if output not in self.made:
            self.made.add(output)
            self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def integers(self, *values: int) -> str:
        name = "integers_" + "_".join(map(str, values))
        self.constants[name] = numpy_helper.from_array(np.array(values, dtype=np.int64), name)
        return name

    def real(self, value: float) -> str:
        name = f"real_{value}"
        self.constants[name] = numpy_helper.from_array(np.array(value, dtype=np.float32), name)
        return name

    def positions(self) -> str:
        """[max_len, 1]: the places of the cache."""
        name = "cache_positions"
        places = np.arange(self.max_len, dtype=np.int64)[:, None]
        self.constants[name] = numpy_helper.from_array(places, name)
        return name

    # --- the operators that are not there ---------------------------------------------------------

    def rms_norm(self, node: onnx.NodeProto) -> None:
        x, weight = node.input
        y = node.output[0]
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        square = self.op("Mul", [x, x], f"{y}/square")
        mean = self.op("ReduceMean", [square], f"{y}/mean", axes=[-1], keepdims=1)
        shifted = self.op("Add", [mean, self.real(epsilon)], f"{y}/shifted")
        root = self.op("Sqrt", [shifted], f"{y}/root")
        self.op("Mul", [self.op("Div", [x, root], f"{y}/scaled"), weight], y)

    def rotary(self, node: onnx.NodeProto, size: int) -> None:
        x, cosines, sines, position = node.input
        y, half = node.output[0], size // 2
        axis = self.integers(1)

        def at_positions(table: str) -> str:
            rows = self.op("Gather", [table, position], f"{table}/rows", axis=0)
            return self.op("Unsqueeze", [rows, axis], f"{table}/heads")

        cos, sin = at_positions(cosines), at_positions(sines)

        def part(name: str, first: int, last: int) -> str:
            ends = [self.integers(first), self.integers(last), self.integers(3)]
            return self.op("Slice", [x, *ends], f"{y}/{name}")

        left, right = part("left", 0, half), part("right", half, size)

        def product(a: str, b: str, name: str) -> str:
            return self.op("Mul", [a, b], f"{y}/{name}")

        first = self.op("Sub", [product(left, cos, "lc"), product(right, sin, "rs")], f"{y}/first")
        second = self.op(
            "Add", [product(right, cos, "rc"), product(left, sin, "ls")], f"{y}/second"
        )
        self.op("Concat", [first, second], y, axis=-1)

    def places(self) -> tuple[str, str]:
        """Where each new token goes: one-hot [batch, 1, max_len, width], and whether any does."""
        wanted = self.op("Unsqueeze", ["position_ids", self.integers(1)], "wanted")
        equal = self.op("Equal", [self.positions(), wanted], "placed_bool")
        hot = self.op("Cast", [equal], "placed", to=TensorProto.FLOAT)
        hot = self.op("Unsqueeze", [hot, self.integers(1)], "placed_heads")
        count = self.op("ReduceSum", [hot, self.integers(3)], "placed_count", keepdims=1)
        # the operator that this stands for starts there, and so must this one
        start = self.op("Unsqueeze", ["write_indices", self.integers(1, 2, 3)], "start")
        after = self.op("GreaterOrEqual", [self.positions(), start], "after_start")
        any_here = self.op("Greater", [count, self.real(0.5)], "placed_any")
        return hot, self.op("And", [any_here, after], "placed_here")

    def scatter(self, node: onnx.NodeProto) -> None:
        """A matrix product with ones and zeros moves values without changing them."""
        past, update, _start = node.input
        hot, here = self.places()
        spread = self.op("MatMul", [hot, update], f"{node.output[0]}/spread")
        self.op("Where", [here, spread, past], node.output[0])

    def attention(self, node: onnx.NodeProto, heads: int, kv_heads: int, size: int) -> None:
        query, keys, values = node.input[:3]
        y, group = node.output[0], heads // kv_heads
        grouped = self.integers(0, kv_heads, group, -1, size)
        query = self.op("Reshape", [query, grouped], f"{y}/query")
        axis = self.integers(2)
        keys = self.op("Unsqueeze", [keys, axis], f"{y}/keys")
        keys = self.op("Transpose", [keys], f"{y}/keys_turned", perm=[0, 1, 2, 4, 3])
        values = self.op("Unsqueeze", [values, axis], f"{y}/values")
        scores = self.op("MatMul", [query, keys], f"{y}/scores")
        scores = self.op("Mul", [scores, self.real(size**-0.5)], f"{y}/scaled")
        scores = self.op("Add", [scores, self.mask()], f"{y}/masked")
        weights = self.op("Softmax", [scores], f"{y}/weights", axis=-1)
        mixed = self.op("MatMul", [weights, values], f"{y}/mixed")
        self.op("Reshape", [mixed, self.integers(0, heads, -1, size)], y)

    def mask(self) -> str:
        """[batch, 1, 1, width, max_len]: each token sees the places up to its own."""
        name = "cache_places"
        places = np.arange(self.max_len, dtype=np.int64)
        self.constants[name] = numpy_helper.from_array(places, name)
        own = self.op("Unsqueeze", ["position_ids", self.integers(1, 2, 4)], "own_places")
        hidden = self.op("Greater", [name, own], "hidden_bool")
        return self.op("Where", [hidden, self.real(MASKED), self.real(0.0)], "hidden")

    def last(self, node: onnx.NodeProto) -> None:
        """Gather of the last position, without a negative index."""
        ends = [self.integers(-1), self.integers(2**31 - 1), self.integers(1)]
        row = self.op("Slice", [node.input[0], *ends], f"{node.output[0]}/row")
        self.op("Squeeze", [row, self.integers(1)], node.output[0])


def lower(source: Path, record: dict[str, Any], target: Path) -> None:
    """Write the graph at `source` to `target`, weights inside."""
    model = onnx.load(source)
    cache, max_len = record["cache"], record["parameters"]["max_len"]
    size, kv_heads = cache["head_dim"], cache["kv_heads"]
    config = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    width = config["model.embed_tokens.weight"][1]
    lowering = Lowering(model, max_len)
    for node in model.graph.node:
        if node.op_type == "RMSNormalization":
            lowering.rms_norm(node)
        elif node.op_type == "RotaryEmbedding":
            lowering.rotary(node, size)
        elif node.op_type == "TensorScatter":
            lowering.scatter(node)
        elif node.op_type == "Attention":
            lowering.attention(node, width // size, kv_heads, size)
        elif node.op_type == "Gather" and node.input[1] == "last_index":
            lowering.last(node)
        else:
            lowering.nodes.append(node)
    graph = model.graph
    del graph.node[:], graph.value_info[:]
    graph.node.extend(lowering.nodes)
    graph.initializer.extend(lowering.constants.values())
    kept = [value for value in graph.input if value.name != "valid_lengths"]
    del graph.input[:]
    graph.input.extend(kept)
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past_", "present_")):
            value.type.tensor_type.shape.dim[CACHE_LENGTH].dim_value = max_len
    del model.opset_import[:]
    model.opset_import.append(helper.make_operatorsetid("", OPSET))
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    onnx.save(model, target)
