"""The decoder in the operators that ONNX Runtime has the fastest CUDA kernels for.

The release's graph stays the source and its weights are not touched: what changes is which
operators read them. GroupQueryAttention takes the place of Attention, of both updates of its cache
and of the rotation of query and key; a sum that is then normalised becomes one operator with its
norm. The inputs are `input_ids` [batch, sequence], `last_keys` [batch], the place in the cache of
the last of them, and the cache.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import EngineError

DOMAIN = "com.microsoft"
LAST_KEYS, CACHE_LENGTH, FLAT = "last_keys", "cache_length", "flat_heads"
# of these nothing but the default is what GroupQueryAttention does
ROTARY_ATTRIBUTES = frozenset({"interleaved", "num_heads", "rotary_embedding_dim"})

Replaced = dict[str, list[onnx.NodeProto]]


class _Source:
    """The nodes of a graph, found by what they make and by who reads it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}

    def maker(self, reader: onnx.NodeProto, place: int, kind: str) -> onnx.NodeProto:
        """The node behind an input; EngineError unless it is of that kind."""
        name = reader.input[place]
        node = self._makers.get(name)
        if node is None or node.op_type != kind:
            raise EngineError(
                f"node {reader.name!r} ({reader.op_type}): its input {name!r} comes from "
                f"{node.op_type if node else 'outside'}, not from {kind}; the provider cuda runs "
                "decoders as deepseek-export and deepseek-prepare write them"
            )
        return node

    def is_sum(self, name: str) -> bool:
        """Whether a tensor is the sum of two others, neither of them a bias."""
        node = self._makers.get(name)
        return (
            node is not None
            and node.op_type == "Add"
            and not any(part in self.constants for part in node.input)
        )

    def reader(self, name: str, kind: str) -> onnx.NodeProto:
        found = [node for node in self.graph.node if name in node.input and node.op_type == kind]
        if len(found) != 1:
            raise EngineError(f"{name!r} is read by {len(found)} nodes {kind}, not by one")
        return found[0]

    def heads(self, transpose: onnx.NodeProto) -> tuple[str, int]:
        """The tensor [batch, sequence, heads * size] before it was split, and its heads.

        Where the heads were normalised, they are what was split and must be joined again.
        """
        node = self._makers[transpose.input[0]]
        split = self.maker(node, 0, "Reshape") if node.op_type == "RMSNormalization" else node
        if split.op_type != "Reshape":
            raise EngineError(f"node {transpose.name!r}: {split.op_type} does not split heads")
        count = int(numpy_helper.to_array(self.constants[split.input[1]])[2])
        return (split.input[0] if split is node else node.output[0]), count


def fused(model: onnx.ModelProto, max_len: int) -> onnx.ModelProto:
    """The same decoder for a cache of exactly `max_len` tokens.

    EngineError names the first node that is not as deepseek-export makes it.
    """
    source = _Source(model.graph)
    replaced: Replaced = {}
    for node in model.graph.node:
        if node.op_type == "Attention":
            _attention(source, node, replaced)
        elif node.op_type == "RMSNormalization" and source.is_sum(node.input[0]):
            _norm(source, node, replaced)
    nodes = [made for node in model.graph.node for made in replaced.get(node.name, [node])]
    return _assemble(model, nodes, max_len)


def _attention(source: _Source, attention: onnx.NodeProto, replaced: Replaced) -> None:
    """From the projections to what the output projection reads."""
    caches = [source.maker(attention, place, "TensorScatter") for place in (1, 2)]
    rotations = [
        source.maker(attention, 0, "RotaryEmbedding"),
        source.maker(caches[0], 1, "RotaryEmbedding"),
    ]
    for rotation in rotations:
        if odd := {a.name for a in rotation.attribute} & ROTARY_ATTRIBUTES:
            raise EngineError(f"node {rotation.name!r}: has {', '.join(sorted(odd))}")
    transposes = [source.maker(rotation, 0, "Transpose") for rotation in rotations]
    transposes.append(source.maker(caches[1], 1, "Transpose"))
    inputs, counts, made = [], [], []
    for transpose in transposes:
        name, count = source.heads(transpose)
        if name == transpose.input[0]:
            flat = f"{name}/joined"
            made.append(helper.make_node("Reshape", [name, FLAT], [flat], name=flat))
            name = flat
        inputs.append(name)
        counts.append(count)
    joined = source.reader(attention.output[0], "Transpose")
    result = source.reader(joined.output[0], "Reshape")
    made.append(
        helper.make_node(
            "GroupQueryAttention",
            [
                *inputs,
                *(cache.input[0] for cache in caches),
                LAST_KEYS,
                CACHE_LENGTH,
                *rotations[0].input[1:3],
            ],
            [result.output[0], *(cache.output[0] for cache in caches)],
            name=attention.name,
            domain=DOMAIN,
            num_heads=counts[0],
            kv_num_heads=counts[1],
            do_rotary=1,
        )
    )
    replaced[attention.name] = made
    replaced.update({node.name: [] for node in (*caches, joined, result)})


def _norm(source: _Source, norm: onnx.NodeProto, replaced: Replaced) -> None:
    """A sum and its norm; the sum is what the next layer adds to."""
    add = source.maker(norm, 0, "Add")
    (epsilon,) = (a.f for a in norm.attribute if a.name == "epsilon")
    # where the sum was, since others read it before the norm comes
    replaced[add.name] = [
        helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [*add.input, norm.input[1]],
            [norm.output[0], "", "", add.output[0]],
            name=norm.name,
            domain=DOMAIN,
            epsilon=epsilon,
        )
    ]
    replaced[norm.name] = []


def _assemble(model: onnx.ModelProto, nodes: list[onnx.NodeProto], max_len: int) -> onnx.ModelProto:
    """Without the nodes, weights and inputs that nothing reads any more."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    graph = helper.make_graph(
        kept[::-1],
        model.graph.name,
        [value for value in model.graph.input if value.name in needed],
        model.graph.output,
        initializer=[tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    graph.input.append(helper.make_tensor_value_info(LAST_KEYS, TensorProto.INT32, ["batch"]))
    constants = {
        CACHE_LENGTH: np.array(max_len, dtype=np.int32),
        FLAT: np.array([0, 0, -1], dtype=np.int64),
    }
    for name, value in constants.items():
        if name in needed:
            graph.initializer.append(numpy_helper.from_array(value, name))
    return helper.make_model(
        graph,
        opset_imports=[*model.opset_import, helper.make_opsetid(DOMAIN, 1)],
        ir_version=model.ir_version,
        producer_name="deepseek-serve",
    )
