"""From the FP32 decoder to the same decoder in another precision, with explicit types and Q/DQ.

Everything but the inputs and outputs that the service reads changes from FP32 to a 16-bit type. The
matrices of the layers are then quantised; embeddings, norms, biases and the head stay in 16 bits.

    int8, fp8   activations -> QuantizeLinear -> DequantizeLinear -> MatMul   (one scale)
                weights in the type -> DequantizeLinear -> MatMul             (one scale per output)
    int4        weights in the type -> DequantizeLinear -> MatMul             (blocks of inputs)

Attention gets its mask as an input, made from position_ids. The exported graph leaves it to
Attention's own number of valid keys; TensorRT-RTX 1.7 parses that and then drops it without an
error, so that an engine built from it would attend to what the cache held before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from deepseek_serving.errors import PrepareError
from deepseek_serving.model_files.graphs import Stored
from deepseek_serving.prepare import numerics
from deepseek_serving.prepare.precision import Precision
from deepseek_serving.prepare.tensors import Array, Floats, open_weights, scalar

# Operators with a type of their own among the attributes: the exporter uses none of them.
TYPED = frozenset({"Cast", "Constant", "ConstantOfShape", "EyeLike", "RandomNormal"})
SMALLEST_BLOCK = 16
# the cache is [batch, kv_heads, max_len, head_dim]
CACHE_LENGTH = 2
CACHE_POSITIONS = "cache_positions"


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [inputs, outputs] and the activations that it multiplies."""

    name: str
    activation: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Scaling:
    """Factors by which weights are multiplied before they are rounded.

    `inputs` has one for each input of a matrix, `outputs` one for each output of a matrix or each
    element of a vector.
    """

    inputs: dict[str, Floats] = field(default_factory=dict)
    outputs: dict[str, Floats] = field(default_factory=dict)


@dataclass
class Graph:
    """A prepared graph: its protobuf without weights, the weights, and what was quantised."""

    model: onnx.ModelProto
    weights: list[Stored] = field(default_factory=list)
    quantized: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def matrices(model: onnx.ModelProto) -> list[Matrix]:
    """The matrices that can be quantised: constants that a MatMul has on its right."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [
        Matrix(node.input[1], node.input[0], (shape[0], shape[1]))
        for node in model.graph.node
        if node.op_type == "MatMul"
        and (shape := shapes.get(node.input[1])) is not None
        and len(shape) == 2
    ]


def block_size(inputs: int, wanted: int) -> int | None:
    """The largest block that divides the inputs, halving from `wanted` down; None if none does."""
    size = wanted
    while size >= SMALLEST_BLOCK:
        if inputs % size == 0:
            return size
        size //= 2
    return None


class _Builder:
    """Collects the nodes and weights of the prepared graph in their order."""

    def __init__(
        self, directory: Path, source: onnx.ModelProto, precision: Precision, scaling: Scaling
    ) -> None:
        self.directory = directory
        self.scaling = scaling
        self.precision = precision
        self.tensors = {tensor.name: tensor for tensor in source.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.stored: dict[str, Stored] = {}
        self._made: set[str] = set()

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """The output of a node that is added once, however often it is asked for."""
        if output not in self._made:
            self._made.add(output)
            self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Array, data_type: int) -> str:
        if name not in self._made:
            self._made.add(name)
            self.constants.append(scalar(name, value, data_type))
        return name

    def store(self, name: str, value: Array, data_type: int) -> str:
        self.stored[name] = Stored(name, data_type, value.shape, lambda: iter([value]))
        return name

    def quantized_activation(self, name: str, largest: float) -> str:
        data_type = int(self.precision.weight_type or 0)
        values = np.array(largest, dtype=np.float32)
        scale = numerics.half_scale(values, data_type)
        scale_name = self.constant(f"{name}/scale", scale, TensorProto.FLOAT16)
        zero = np.zeros((), dtype=numerics.NUMPY_TYPES[data_type])
        zero_name = self.constant(f"zero_{numerics.NUMPY_TYPES[data_type]}", zero, data_type)
        inputs = [scale_name, zero_name]
        steps = self.node("QuantizeLinear", [name, *inputs], f"{name}/quantized")
        return self.node("DequantizeLinear", [steps, *inputs], f"{name}/dequantized")

    def quantized_weight(self, matrix: Matrix, block: int | None) -> str:
        """Weights are quantised when they are written, and kept no longer than that."""
        data_type = int(self.precision.weight_type or 0)
        inputs, outputs = matrix.shape
        weights = numerics.Scaled(
            open_weights(self.directory, self.tensors[matrix.name]),
            self.scaling.inputs.get(matrix.name),
            self.scaling.outputs.get(matrix.name),
        )
        if block is None:
            make = partial(numerics.by_column, weights, data_type)
            scale_shape: tuple[int, ...] = (outputs,)
        else:
            make = partial(numerics.by_block, weights, block)
            scale_shape = (inputs // block, outputs)
        pair = _Pair(make)
        scale = f"{matrix.name}/scale"
        self.stored[matrix.name] = Stored(matrix.name, data_type, matrix.shape, pair.values)
        self.stored[scale] = Stored(scale, TensorProto.FLOAT16, scale_shape, pair.scale)
        attributes = {"axis": 1} if block is None else {"axis": 0, "block_size": block}
        name = f"{matrix.name}/dequantized"
        return self.node("DequantizeLinear", [matrix.name, scale], name, **attributes)


class _Pair:
    """Values and scale of one matrix, which are written one after the other."""

    def __init__(self, make: partial[numerics.Quantized]) -> None:
        self._make = make
        self._scale: Array | None = None

    def values(self) -> Iterator[Array]:
        made = self._make()
        self._scale = made.scale
        is_int4 = self._make.func is numerics.by_block
        yield numerics.packed(made.values) if is_int4 else made.values

    def scale(self) -> Iterator[Array]:
        if self._scale is None:
            self._scale = self._make().scale
        yield self._scale


def prepare_graph(
    source: onnx.ModelProto,
    directory: Path,
    precision: Precision,
    *,
    block: int,
    max_len: int,
    largest: Mapping[str, float],
    scaling: Scaling,
) -> Graph:
    """The graph of `source`, whose weights lie in `directory`, in `precision`.

    The cache gets the fixed length `max_len`, which TensorRT asks for. `largest` holds the largest
    magnitude of each activation, where activations are quantised, once weights are multiplied as
    `scaling` says.
    """
    _refuse_unknown(source)
    builder = _Builder(directory, source, precision, scaling)
    quantized, kept = _plan(source, precision, block)
    for node in source.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if node.op_type == "MatMul" and node.input[1] in quantized:
            matrix, size = quantized[node.input[1]]
            if precision.activations:
                changed.input[0] = builder.quantized_activation(
                    node.input[0], largest[node.input[0]]
                )
            changed.input[1] = builder.quantized_weight(matrix, size)
        if node.op_type == "Attention":
            _mask(builder, changed, max_len)
        builder.nodes.append(changed)
    _widen_candidates(builder)
    model = _assemble(source, builder, max_len)
    return Graph(model, list(builder.stored.values()), sorted(quantized), kept)


def _plan(
    source: onnx.ModelProto, precision: Precision, block: int
) -> tuple[dict[str, tuple[Matrix, int | None]], list[str]]:
    """The matrices to quantise with the size of their blocks, and the names of those left out."""
    chosen: dict[str, tuple[Matrix, int | None]] = {}
    kept = []
    for matrix in matrices(source) if precision.weight_type is not None else []:
        if precision.weight_type != TensorProto.INT4:
            chosen[matrix.name] = (matrix, None)
        elif (size := block_size(matrix.shape[0], block)) is not None:
            chosen[matrix.name] = (matrix, size)
        else:
            kept.append(matrix.name)
    if precision.weight_type is not None and not chosen:
        raise PrepareError(
            "the graph has no matrix that can be quantised: MatMul with a constant on its right"
            + (f" whose inputs are a multiple of {SMALLEST_BLOCK}" if kept else "")
        )
    return chosen, kept


def _refuse_unknown(source: onnx.ModelProto) -> None:
    for node in source.graph.node:
        if node.op_type in TYPED or node.domain:
            raise PrepareError(
                f"node {node.name!r} ({node.domain or 'onnx'}.{node.op_type}) is not one that "
                "deepseek-export writes; prepare a graph exported by it"
            )
    if [node.op_type for node in source.graph.node].count("TopK") != 1:
        raise PrepareError("the graph does not end in one TopK; prepare a graph of deepseek-export")


def _mask(builder: _Builder, attention: onnx.NodeProto, max_len: int) -> None:
    """Every query sees the keys up to its own position, whatever lies behind them in the cache."""
    attributes = {attribute.name: attribute for attribute in attention.attribute}
    inputs = list(attention.input)
    if inputs[3:6] != ["", "", ""] or len(inputs) != 7 or attributes["is_causal"].i != 1:
        raise PrepareError(
            f"node {attention.name!r}: Attention is not the causal one over a static cache that "
            "deepseek-export writes"
        )
    axes = np.array([1, 3], dtype=np.int64)
    positions = np.arange(max_len, dtype=np.int64)
    builder.constant("mask_axes", axes, TensorProto.INT64)
    builder.constant(CACHE_POSITIONS, positions, TensorProto.INT64)
    queries = builder.node("Unsqueeze", ["position_ids", "mask_axes"], "mask_queries")
    mask = builder.node("LessOrEqual", [CACHE_POSITIONS, queries], "mask")
    del attention.input[:]
    attention.input.extend([*inputs[:3], mask])
    attention.attribute.remove(attributes["is_causal"])


def _widen_candidates(builder: _Builder) -> None:
    """The logits leave the graph in FP32, as the service reads them."""
    last = next(node for node in builder.nodes if node.op_type == "TopK")
    logits = last.input[0]
    narrow = f"{logits}/narrow"
    producer = next(node for node in builder.nodes if logits in node.output)
    producer.output[list(producer.output).index(logits)] = narrow
    cast = helper.make_node("Cast", [narrow], [logits], name=logits, to=TensorProto.FLOAT)
    producer.name = narrow
    builder.nodes.insert(builder.nodes.index(producer) + 1, cast)


def _assemble(source: onnx.ModelProto, builder: _Builder, max_len: int) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph = model.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(builder.nodes)
    for tensor in source.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            graph.initializer.append(tensor)
        elif tensor.name not in builder.stored:
            builder.stored[tensor.name] = _narrowed(builder, tensor)
    graph.initializer.extend(builder.constants)
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT and value.name.startswith(("past_", "present_")):
            kind.elem_type = builder.precision.float_type
            kind.shape.dim[CACHE_LENGTH].dim_value = max_len
    model.producer_name = "deepseek-prepare"
    return model


def _narrowed(builder: _Builder, tensor: onnx.TensorProto) -> Stored:
    values: Floats = open_weights(builder.directory, tensor)
    data_type = builder.precision.float_type
    factors = builder.scaling.outputs.get(tensor.name)
    if factors is not None:
        # a norm's vector: matrices are scaled where they are quantised
        values = values * factors
    return Stored(
        tensor.name,
        data_type,
        tuple(tensor.dims),
        partial(numerics.convert, tensor.name, values, data_type),
    )
