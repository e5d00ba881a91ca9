"""The decoder graph: ONNX opset 24, standard operators only.

Inputs: `input_ids` and `position_ids` [batch, sequence]; `write_indices` [batch], where each slot's
cache is written; `valid_lengths` [batch], the number of valid keys after this step; and per layer
`past_key.N`, `past_value.N` [batch, kv_heads, max_len, head_dim].

Outputs: `top_values` and `top_indices` [batch, 64], the best candidates for the token after the
last one given; and per layer `present_key.N`, `present_value.N`, to be bound to the same buffers
as the past, which TensorScatter then updates in place.

The causal mask of Attention is aligned to the end of the valid keys, so the same graph does a whole
prompt, a chunk of it at an offset, and a single token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.architecture import Decoder
from deepseek_serving.export.safetensors import ITEM_BYTES, Tensor

OPSET = 24
TOP = 64
IR_VERSION = 11


@dataclass(frozen=True)
class Weight:
    """An initializer kept outside the protobuf, turned over if the checkpoint has it [out, in]."""

    name: str
    source: Tensor | npt.NDArray[np.float32]
    shape: tuple[int, ...]
    transposed: bool = False


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
        self.constants[name] = numpy_helper.from_array(np.array(sizes, dtype=np.int64), name)
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
        """x times the transpose of the checkpoint's [out, in] weight, plus its bias."""
        outputs, inputs = sizes
        weight = self.weight(f"{prefix}.weight", (outputs, inputs), transposed=True)
        y = self.op("MatMul", [x, weight], f"{prefix}/matmul")
        if bias:
            y = self.op("Add", [y, self.weight(f"{prefix}.bias", (outputs,))], f"{prefix}/add")
        return y

    def norm(self, x: str, prefix: str, size: int, epsilon: float) -> str:
        return self.op(
            "RMSNormalization",
            [x, self.weight(f"{prefix}.weight", (size,))],
            f"{prefix}/norm",
            axis=-1,
            epsilon=epsilon,
        )


def rotary_tables(
    decoder: Decoder, max_len: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines [max_len, head_dim / 2], with the angles rounded to FP32 as in training."""
    exponents = np.arange(0, decoder.head_dim, 2, dtype=np.float64) / decoder.head_dim
    frequencies = (1.0 / decoder.rope_theta**exponents).astype(np.float32)
    angles = np.outer(np.arange(max_len, dtype=np.float32), frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _heads(graph: GraphBuilder, x: str, count: int, size: int) -> str:
    """[batch, sequence, count * size] to [batch, count, sequence, size]."""
    split = graph.op("Reshape", [x, graph.shape(0, 0, count, size)], f"{x}/split")
    return graph.op("Transpose", [split], f"{x}/heads", perm=[0, 2, 1, 3])


def _attention(graph: GraphBuilder, decoder: Decoder, layer: int, x: str) -> str:
    prefix = f"model.layers.{layer}.self_attn"
    width, kv_width = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim

    def project(name: str, out: int) -> str:
        return graph.linear(
            x, f"{prefix}.{name}_proj", (out, decoder.hidden), bias=decoder.qkv_bias
        )

    def rotate(y: str) -> str:
        inputs = [y, "rotary_cos", "rotary_sin", "position_ids"]
        return graph.op("RotaryEmbedding", inputs, f"{y}/rotated")

    query = rotate(_heads(graph, project("q", width), decoder.heads, decoder.head_dim))
    key = rotate(_heads(graph, project("k", kv_width), decoder.kv_heads, decoder.head_dim))
    value = _heads(graph, project("v", kv_width), decoder.kv_heads, decoder.head_dim)
    for kind, update in (("key", key), ("value", value)):
        graph.op(
            "TensorScatter",
            [f"past_{kind}.{layer}", update, "write_indices"],
            f"present_{kind}.{layer}",
            axis=-2,
            mode="linear",
        )
    keys, values = f"present_key.{layer}", f"present_value.{layer}"
    mixed = graph.op(
        "Attention",
        [query, keys, values, "", "", "", "valid_lengths"],
        f"{prefix}/attention",
        is_causal=1,
    )
    joined = graph.op("Transpose", [mixed], f"{prefix}/joined", perm=[0, 2, 1, 3])
    flat = graph.op("Reshape", [joined, graph.shape(0, 0, width)], f"{prefix}/flat")
    return graph.linear(flat, f"{prefix}.o_proj", (decoder.hidden, width))


def _mlp(graph: GraphBuilder, decoder: Decoder, layer: int, x: str) -> str:
    prefix = f"model.layers.{layer}.mlp"
    up_sizes = (decoder.intermediate, decoder.hidden)
    gate = graph.linear(x, f"{prefix}.gate_proj", up_sizes)
    sigmoid = graph.op("Sigmoid", [gate], f"{prefix}/sigmoid")
    silu = graph.op("Mul", [gate, sigmoid], f"{prefix}/silu")
    up = graph.linear(x, f"{prefix}.up_proj", up_sizes)
    gated = graph.op("Mul", [silu, up], f"{prefix}/gated")
    return graph.linear(gated, f"{prefix}.down_proj", (decoder.hidden, decoder.intermediate))


def _head(graph: GraphBuilder, decoder: Decoder, x: str) -> None:
    """Candidates for the next token from the last position alone."""
    last_index = numpy_helper.from_array(np.array(-1, dtype=np.int64), "last_index")
    graph.constants["last_index"] = last_index
    last = graph.op("Gather", [x, "last_index"], "last_hidden", axis=1)
    normed = graph.norm(last, "model.norm", decoder.hidden, decoder.rms_epsilon)
    table = "model.embed_tokens.weight" if decoder.tied_embeddings else "lm_head.weight"
    # Gemm reads the table as [out, in], so that a tied table is stored once
    head = graph.weight(table, (decoder.vocabulary, decoder.hidden))
    logits = graph.op("Gemm", [normed, head], "logits", transB=1)
    inputs = [logits, graph.shape(min(TOP, decoder.vocabulary))]
    graph.nodes.append(
        helper.make_node("TopK", inputs, ["top_values", "top_indices"], name="top", axis=-1)
    )


def _values(
    decoder: Decoder, *, with_logits: bool
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    integer, real = TensorProto.INT64, TensorProto.FLOAT
    cache: list[str | int | None] = ["batch", decoder.kv_heads, "max_len", decoder.head_dim]
    top = min(TOP, decoder.vocabulary)
    inputs = [
        helper.make_tensor_value_info("input_ids", integer, ["batch", "sequence"]),
        helper.make_tensor_value_info("position_ids", integer, ["batch", "sequence"]),
        helper.make_tensor_value_info("write_indices", integer, ["batch"]),
        helper.make_tensor_value_info("valid_lengths", integer, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("top_values", real, ["batch", top]),
        helper.make_tensor_value_info("top_indices", integer, ["batch", top]),
    ]
    if with_logits:
        outputs.append(helper.make_tensor_value_info("logits", real, ["batch", decoder.vocabulary]))
    for layer in range(decoder.layers):
        for kind in ("key", "value"):
            inputs.append(helper.make_tensor_value_info(f"past_{kind}.{layer}", real, cache))
            outputs.append(helper.make_tensor_value_info(f"present_{kind}.{layer}", real, cache))
    return inputs, outputs


def build(
    decoder: Decoder, tensors: Mapping[str, Tensor], max_len: int, *, with_logits: bool = False
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The graph without its weights, and the weights in the order in which they are stored."""
    graph = GraphBuilder(tensors)
    cosines, sines = rotary_tables(decoder, max_len)
    graph.table("rotary_cos", cosines)
    graph.table("rotary_sin", sines)
    embedding = graph.weight("model.embed_tokens.weight", (decoder.vocabulary, decoder.hidden))
    x = graph.op("Gather", [embedding, "input_ids"], "embedded", axis=0)
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}"
        normed = graph.norm(x, f"{prefix}.input_layernorm", decoder.hidden, decoder.rms_epsilon)
        attended = _attention(graph, decoder, layer, normed)
        x = graph.op("Add", [x, attended], f"{prefix}/attended")
        normed = graph.norm(
            x, f"{prefix}.post_attention_layernorm", decoder.hidden, decoder.rms_epsilon
        )
        x = graph.op("Add", [x, _mlp(graph, decoder, layer, normed)], f"{prefix}/output")
    _head(graph, decoder, x)
    inputs, outputs = _values(decoder, with_logits=with_logits)
    proto = helper.make_graph(
        graph.nodes, "decoder", inputs, outputs, initializer=list(graph.constants.values())
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="deepseek-export",
    )
    return model, list(graph.weights.values())
