"""The decoder in the operators that ONNX Runtime has its fastest kernels for.

The release's graph stays the source, and no weight changes its value. GroupQueryAttention takes the
place of Attention, of both updates of its cache and of the rotation of query and key; a sum that is
then normalised becomes one operator with its norm; and the projections to query, key and value
become one, whose weights are theirs side by side. The inputs are `input_ids` [batch, sequence];
`last_keys` [batch], the place in the cache of the last of them; `last_index`, the token among them
after which candidates are wanted; `cache_length`, where it is not fixed; and the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import EngineError

DOMAIN = "com.microsoft"
# weights of 4 bits, one output after the other
QUANTIZED = "MatMulNBits"
LAST_KEYS, LAST_INDEX = "last_keys", "last_index"
CACHE_LENGTH, FLAT = "cache_length", "flat_heads"
# of these nothing but the default is what GroupQueryAttention does
ROTARY_ATTRIBUTES = frozenset({"interleaved", "num_heads", "rotary_embedding_dim"})


@dataclass(frozen=True)
class Joined:
    """Weights that lie side by side in a new one, along that axis."""

    parts: tuple[str, ...]
    axis: int = -1


@dataclass(frozen=True)
class Fused:
    """The graph, and what each of its new weights is made of."""

    model: onnx.ModelProto
    joined: Mapping[str, Joined]


@dataclass
class _Changes:
    """What stands in the place of nodes, by their names, and the weights that it asks for."""

    nodes: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    joined: dict[str, Joined] = field(default_factory=dict)


@dataclass(frozen=True)
class _Heads:
    """A projection before it is split into heads; `normed` is its heads, if they have a norm."""

    product: onnx.NodeProto
    bias: str | None
    flat: str
    count: int
    normed: str | None


class _Source:
    """The nodes of a graph, found by what they make and by who reads it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers: dict[str, onnx.NodeProto] = {
            output: node for node in graph.node for output in node.output
        }

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

    def is_made_by(self, name: str, kind: str) -> bool:
        node = self._makers.get(name)
        return node is not None and node.op_type == kind

    def is_sum(self, name: str) -> bool:
        """Whether a tensor is the sum of two others, neither of them a bias."""
        return self.is_made_by(name, "Add") and not any(
            part in self.constants for part in self._makers[name].input
        )

    def reader(self, name: str, kind: str) -> onnx.NodeProto:
        found: list[onnx.NodeProto] = [
            node for node in self.graph.node if name in node.input and node.op_type == kind
        ]
        if len(found) != 1:
            raise EngineError(f"{name!r} is read by {len(found)} nodes {kind}, not by one")
        return found[0]

    def heads(self, transpose: onnx.NodeProto) -> _Heads:
        normed = self.is_made_by(transpose.input[0], "RMSNormalization")
        inner = self.maker(transpose, 0, "RMSNormalization") if normed else transpose
        split = self.maker(inner, 0, "Reshape")
        count = int(numpy_helper.to_array(self.constants[split.input[1]])[2])
        bias = None
        product = split
        if self.is_made_by(split.input[0], "Add"):
            product = self.maker(split, 0, "Add")
            bias = product.input[1]
        kind = QUANTIZED if self.is_made_by(product.input[0], QUANTIZED) else "MatMul"
        product = self.maker(product, 0, kind)
        return _Heads(product, bias, split.input[0], count, transpose.input[0] if normed else None)


def fused(model: onnx.ModelProto, max_len: int | None) -> Fused:
    """The same decoder for a cache of exactly `max_len` tokens; None makes its length an input.

    EngineError names the first node that is not as deepseek-export makes it.
    """
    source = _Source(model.graph)
    changes = _Changes()
    for node in model.graph.node:
        if node.op_type == "Attention":
            _attention(source, node, changes)
        elif node.op_type == "RMSNormalization" and source.is_sum(node.input[0]):
            _norm(source, node, changes)
    nodes = [made for node in model.graph.node for made in changes.nodes.get(node.name, [node])]
    return Fused(_assemble(source, model, nodes, changes.joined, max_len), changes.joined)


def _attention(source: _Source, attention: onnx.NodeProto, changes: _Changes) -> None:
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
    heads = [source.heads(node) for node in (*transposes, source.maker(caches[1], 1, "Transpose"))]
    joined = source.reader(attention.output[0], "Transpose")
    result = source.reader(joined.output[0], "Reshape")
    inputs, made = _projected(source, heads, attention.name, changes)
    grouped = helper.make_node(
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
        num_heads=heads[0].count,
        kv_num_heads=heads[1].count,
        do_rotary=1,
    )
    changes.nodes[attention.name] = [*made, grouped]
    changes.nodes.update({node.name: [] for node in (*caches, joined, result)})


def _projected(
    source: _Source, heads: list[_Heads], prefix: str, changes: _Changes
) -> tuple[list[str], list[onnx.NodeProto]]:
    """Query, key and value, as one tensor if they can be made at once, and the nodes for it."""
    if not _can_be_joined(source, heads):
        flat, nodes = [], []
        for part in heads:
            flat.append(f"{part.normed}/joined" if part.normed else part.flat)
            if part.normed:
                nodes.append(_node("Reshape", [part.normed, FLAT], flat[-1]))
        return flat, nodes
    packed = f"{prefix}/packed"
    nodes = [_product([part.product for part in heads], packed, changes)]
    biases = tuple(part.bias for part in heads if part.bias is not None)
    if biases:
        changes.joined[f"{packed}.bias"] = Joined(biases)
        nodes.append(_node("Add", [packed, f"{packed}.bias"], f"{packed}/add"))
    return [nodes[-1].output[0], "", ""], nodes


def _can_be_joined(source: _Source, heads: list[_Heads]) -> bool:
    products = [part.product for part in heads]
    return (
        not any(part.normed for part in heads)
        and len([part for part in heads if part.bias is not None]) in (0, len(heads))
        and len({node.input[0] for node in products}) == 1
        and all(name in source.constants for node in products for name in node.input[1:])
        # a matrix whose inputs are no multiple of a block stays as it was
        and len({(node.op_type, _attribute(node, "block_size")) for node in products}) == 1
    )


def _attribute(node: onnx.NodeProto, name: str) -> int | None:
    return next((a.i for a in node.attribute if a.name == name), None)


def _product(products: list[onnx.NodeProto], name: str, changes: _Changes) -> onnx.NodeProto:
    """Several products of the same activations as one."""
    made = onnx.NodeProto()
    made.CopyFrom(products[0])
    made.name, made.output[0] = name, name
    axis = 0 if made.op_type == QUANTIZED else -1
    for place, kind in enumerate(("weight", "scale")[: len(made.input) - 1], start=1):
        made.input[place] = f"{name}.{kind}"
        parts = tuple(node.input[place] for node in products)
        changes.joined[made.input[place]] = Joined(parts, axis)
    for attribute in made.attribute:
        if attribute.name == "N":
            attribute.i = sum(_attribute(node, "N") or 0 for node in products)
    return made


def _node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output)


def _norm(source: _Source, norm: onnx.NodeProto, changes: _Changes) -> None:
    """A sum and its norm; the sum is what the next layer adds to."""
    add = source.maker(norm, 0, "Add")
    (epsilon,) = (a.f for a in norm.attribute if a.name == "epsilon")
    # where the sum was, since others read it before the norm comes
    changes.nodes[add.name] = [
        helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [*add.input, norm.input[1]],
            [norm.output[0], "", "", add.output[0]],
            name=norm.name,
            domain=DOMAIN,
            epsilon=epsilon,
        )
    ]
    changes.nodes[norm.name] = []


def _assemble(
    source: _Source,
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    joined: Mapping[str, Joined],
    max_len: int | None,
) -> onnx.ModelProto:
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
        initializer=[
            tensor
            for tensor in model.graph.initializer
            if tensor.name in needed and tensor.name != LAST_INDEX
        ],
    )
    graph.input.append(helper.make_tensor_value_info(LAST_KEYS, TensorProto.INT32, ["batch"]))
    # a constant in the source, for the last token of all
    graph.input.append(helper.make_tensor_value_info(LAST_INDEX, TensorProto.INT64, []))
    graph.initializer.extend(_wide(source, name, made) for name, made in joined.items())
    constants: dict[str, npt.NDArray[np.generic]] = {FLAT: np.array([0, 0, -1], dtype=np.int64)}
    if max_len is None:
        graph.input.append(helper.make_tensor_value_info(CACHE_LENGTH, TensorProto.INT32, []))
    else:
        constants[CACHE_LENGTH] = np.array(max_len, dtype=np.int32)
    for name, value in constants.items():
        if name in needed:
            graph.initializer.append(numpy_helper.from_array(value, name))
    return helper.make_model(
        graph,
        opset_imports=[
            *(entry for entry in model.opset_import if entry.domain != DOMAIN),
            helper.make_opsetid(DOMAIN, 1),
        ],
        ir_version=model.ir_version,
        producer_name="deepseek-serve",
    )


def _wide(source: _Source, name: str, joined: Joined) -> onnx.TensorProto:
    """A weight that the session is given beside the graph; its place in a file is another's."""
    tensors = [source.constants[part] for part in joined.parts]
    wide = onnx.TensorProto()
    wide.CopyFrom(tensors[0])
    wide.name = name
    wide.dims[joined.axis] = sum(tensor.dims[joined.axis] for tensor in tensors)
    return wide
