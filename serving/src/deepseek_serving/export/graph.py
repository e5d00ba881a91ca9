"""The decoder graph: ONNX opset 24, standard operators only.

Inputs: `input_ids` and `position_ids` [batch, sequence]; `write_indices` [batch], where each slot's
cache is written; `valid_lengths` [batch], the number of valid keys after this step; and per layer
`past_key.N`, `past_value.N` [batch, kv_heads, max_len, head_dim].

Outputs: `top_values` and `top_indices` [batch, 64], the best candidates for the token after the
last one given; `logits` [batch, vocabulary], of which they are the best, for the requests that need
more; and per layer `present_key.N`, `present_value.N`, to be bound to the same buffers as the past,
which TensorScatter then updates in place.

The causal mask of Attention is aligned to the end of the valid keys, so the same graph does a whole
prompt, a chunk of it at an offset, and a single token.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from deepseek_serving.export.architecture import Decoder
from deepseek_serving.export.builder import GraphBuilder, Weight
from deepseek_serving.model_files.safetensors import Tensor

OPSET = 24
IR_VERSION = 11
TOP = 64


def _norm(graph: GraphBuilder, x: str, prefix: str, size: int, epsilon: float) -> str:
    weight = graph.weight(f"{prefix}.weight", (size,))
    return graph.op("RMSNormalization", [x, weight], f"{prefix}/norm", axis=-1, epsilon=epsilon)


def _attention(graph: GraphBuilder, decoder: Decoder, layer: int, x: str) -> str:
    prefix = f"model.layers.{layer}.self_attn"
    size = decoder.head_dim
    width = decoder.heads * size

    def heads(name: str, count: int) -> str:
        """A projection of x, as [batch, sequence, count, size]."""
        sizes = (count * size, decoder.hidden)
        y = graph.linear(x, f"{prefix}.{name}_proj", sizes, bias=decoder.qkv_bias)
        return graph.split_heads(y, count, size)

    def head_first(y: str) -> str:
        return graph.op("Transpose", [y], f"{y}/heads", perm=[0, 2, 1, 3])

    def rotated(name: str, count: int) -> str:
        y = heads(name, count)
        if decoder.qk_norm:
            y = _norm(graph, y, f"{prefix}.{name}_norm", size, decoder.rms_epsilon)
        y = head_first(y)
        inputs = [y, "rotary_cos", "rotary_sin", "position_ids"]
        return graph.op("RotaryEmbedding", inputs, f"{y}/rotated")

    query, key = rotated("q", decoder.heads), rotated("k", decoder.kv_heads)
    value = head_first(heads("v", decoder.kv_heads))
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
    return graph.linear(flat, f"{prefix}.o_proj", (decoder.hidden, width), bias=decoder.output_bias)


def _mlp(graph: GraphBuilder, decoder: Decoder, layer: int, x: str) -> str:
    prefix = f"model.layers.{layer}.mlp"

    def linear(y: str, name: str, sizes: tuple[int, int]) -> str:
        return graph.linear(y, f"{prefix}.{name}_proj", sizes, bias=decoder.mlp_bias)

    gate = linear(x, "gate", (decoder.intermediate, decoder.hidden))
    sigmoid = graph.op("Sigmoid", [gate], f"{prefix}/sigmoid")
    silu = graph.op("Mul", [gate, sigmoid], f"{prefix}/silu")
    up = linear(x, "up", (decoder.intermediate, decoder.hidden))
    gated = graph.op("Mul", [silu, up], f"{prefix}/gated")
    return linear(gated, "down", (decoder.hidden, decoder.intermediate))


def _head(graph: GraphBuilder, decoder: Decoder, x: str) -> None:
    """Candidates for the next token from the last position alone."""
    index = graph.constant("last_index", np.array(-1, dtype=np.int64))
    last = graph.op("Gather", [x, index], "last_hidden", axis=1)
    normed = _norm(graph, last, "model.norm", decoder.hidden, decoder.rms_epsilon)
    table = "model.embed_tokens.weight" if decoder.tied_embeddings else "lm_head.weight"
    # Gemm reads the table as [out, in], so that a tied table is stored once
    head = graph.weight(table, (decoder.vocabulary, decoder.hidden))
    logits = graph.op("Gemm", [normed, head], "logits", transB=1)
    inputs = [logits, graph.shape(min(TOP, decoder.vocabulary))]
    graph.nodes.append(
        helper.make_node("TopK", inputs, ["top_values", "top_indices"], name="top", axis=-1)
    )


def _values(decoder: Decoder) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
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
        helper.make_tensor_value_info("logits", real, ["batch", decoder.vocabulary]),
    ]
    for layer in range(decoder.layers):
        for kind in ("key", "value"):
            inputs.append(helper.make_tensor_value_info(f"past_{kind}.{layer}", real, cache))
            outputs.append(helper.make_tensor_value_info(f"present_{kind}.{layer}", real, cache))
    return inputs, outputs


def build(
    decoder: Decoder, tensors: Mapping[str, Tensor], max_len: int
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The graph without its weights, and the weights in the order in which they are stored."""
    graph = GraphBuilder(tensors)

    def norm(y: str, prefix: str) -> str:
        return _norm(graph, y, prefix, decoder.hidden, decoder.rms_epsilon)

    cosines, sines = decoder.rope.tables(max_len)
    graph.table("rotary_cos", cosines)
    graph.table("rotary_sin", sines)
    embedding = graph.weight("model.embed_tokens.weight", (decoder.vocabulary, decoder.hidden))
    x = graph.op("Gather", [embedding, "input_ids"], "embedded", axis=0)
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}"
        normed = norm(x, f"{prefix}.input_layernorm")
        attended = _attention(graph, decoder, layer, normed)
        x = graph.op("Add", [x, attended], f"{prefix}/attended")
        normed = norm(x, f"{prefix}.post_attention_layernorm")
        x = graph.op("Add", [x, _mlp(graph, decoder, layer, normed)], f"{prefix}/output")
    _head(graph, decoder, x)
    inputs, outputs = _values(decoder)
    model = graph.model("decoder", OPSET, IR_VERSION, inputs, outputs)
    return model, list(graph.weights.values())
