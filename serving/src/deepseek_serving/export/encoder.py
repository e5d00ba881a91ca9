"""The graph of a text encoder: ONNX opset 17, so that TensorRT from 8.6 up can take it too.

Inputs: `input_ids`, `attention_mask` and `token_type_ids`, all [batch, sequence].

Outputs: `last_hidden_state` [batch, sequence, hidden], and `embedding` [batch, hidden], pooled and
normalised as the directory's sentence-transformers files say. Of a graph that judges pairs of
texts: `score` [batch, 1], as the head's last layer gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.architecture import Encoder
from deepseek_serving.export.builder import GraphBuilder, Weight
from deepseek_serving.export.config import read_json, read_object
from deepseek_serving.model_files.safetensors import Tensor

OPSET = 17
IR_VERSION = 8
MODULES_FILE = "modules.json"
# far enough below any score that its exponential is zero, and still a number in FP16
MASKED = -1e4
POOLINGS: Mapping[str, Literal["cls", "mean"]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
}


@dataclass(frozen=True)
class Pooling:
    """How the tokens' states become one embedding."""

    mode: Literal["cls", "mean"]
    normalised: bool


def read_pooling(directory: Path) -> Pooling:
    """What modules.json of sentence-transformers names: Transformer, Pooling, maybe Normalize."""
    path = directory / MODULES_FILE
    modules = read_json(path)
    try:
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        places = [str(module["path"]) for module in modules]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a list of modules: {error!r}") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{path}: modules {', '.join(kinds) or '(none)'} are not supported; "
            "supported: Transformer, Pooling and, after them, Normalize"
        )
    if places[0]:
        raise CheckpointError(f"{path}: the Transformer must be in the directory itself")
    if Path(places[1]).name != places[1]:
        raise CheckpointError(f"{path}: {places[1]!r} is not a directory in this one")
    return Pooling(_pooling_mode(directory / places[1] / "config.json"), len(kinds) == 3)


def _pooling_mode(path: Path) -> Literal["cls", "mean"]:
    config = read_object(path)
    asked = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise CheckpointError(
            f"{path}: pooling by {' and '.join(asked) or 'no mode'} is not supported; "
            f"supported: one of {', '.join(POOLINGS)}"
        )
    if config.get("include_prompt") is False:
        raise CheckpointError(f"{path}: include_prompt false is not supported")
    return POOLINGS[asked[0]]


def _real(graph: GraphBuilder, name: str, value: float) -> str:
    return graph.constant(name, np.array(value, dtype=np.float32))


def _norm(graph: GraphBuilder, encoder: Encoder, x: str, prefix: str) -> str:
    weights = [graph.weight(f"{prefix}.{part}", (encoder.hidden,)) for part in ("weight", "bias")]
    return graph.op(
        "LayerNormalization",
        [x, *weights],
        f"{prefix}/norm",
        axis=-1,
        epsilon=encoder.norm_epsilon,
    )


def _embedded(graph: GraphBuilder, encoder: Encoder) -> str:
    def table(name: str, rows: int) -> str:
        key = f"{encoder.prefix}embeddings.{name}_embeddings.weight"
        return graph.weight(key, (rows, encoder.hidden))

    words = [table("word", encoder.vocabulary), "input_ids"]
    types = [table("token_type", encoder.token_types), "token_type_ids"]
    x = graph.op("Gather", words, "words", axis=0)
    x = graph.op("Add", [x, graph.op("Gather", types, "types", axis=0)], "typed_words")
    shape = graph.op("Shape", ["input_ids"], "input_shape")
    zero, one, two = graph.shape(0), graph.shape(1), graph.shape(2)
    length = graph.op("Slice", [shape, one, two, zero], "length")
    positions = table("position", encoder.max_positions)
    first, behind = zero, length
    if encoder.first_position:
        first = graph.shape(encoder.first_position)
        behind = graph.op("Add", [length, first], "behind_positions")
    positions = graph.op("Slice", [positions, first, behind, zero], "positions")
    x = graph.op("Add", [x, positions], "placed_words")
    return _norm(graph, encoder, x, f"{encoder.prefix}embeddings.LayerNorm")


def _mask(graph: GraphBuilder) -> str:
    """[batch, 1, 1, sequence]: zero for a token, far below zero for padding."""
    kept = graph.op("Cast", ["attention_mask"], "mask_bool", to=TensorProto.BOOL)
    zero, masked = _real(graph, "zero", 0.0), _real(graph, "masked", MASKED)
    mask = graph.op("Where", [kept, zero, masked], "mask_flat")
    axes = graph.constant("mask_axes", np.array([1, 2], dtype=np.int64))
    return graph.op("Unsqueeze", [mask, axes], "mask")


def _attention(graph: GraphBuilder, encoder: Encoder, prefix: str, x: str, mask: str) -> str:
    square = (encoder.hidden, encoder.hidden)

    def heads(name: str, perm: list[int]) -> str:
        y = graph.linear(x, f"{prefix}.self.{name}", square, bias=True)
        y = graph.split_heads(y, encoder.heads, encoder.head_dim)
        return graph.op("Transpose", [y], f"{y}/heads", perm=perm)

    query, value = heads("query", [0, 2, 1, 3]), heads("value", [0, 2, 1, 3])
    scores = graph.op("MatMul", [query, heads("key", [0, 2, 3, 1])], f"{prefix}/scores")
    scale = _real(graph, "score_scale", encoder.head_dim**-0.5)
    scores = graph.op("Mul", [scores, scale], f"{prefix}/scaled")
    scores = graph.op("Add", [scores, mask], f"{prefix}/masked")
    weights = graph.op("Softmax", [scores], f"{prefix}/weights", axis=-1)
    mixed = graph.op("MatMul", [weights, value], f"{prefix}/mixed")
    joined = graph.op("Transpose", [mixed], f"{prefix}/joined", perm=[0, 2, 1, 3])
    flat = graph.op("Reshape", [joined, graph.shape(0, 0, encoder.hidden)], f"{prefix}/flat")
    return graph.linear(flat, f"{prefix}.output.dense", square, bias=True)


def _gelu(graph: GraphBuilder, x: str) -> str:
    """The exact form; the operator Gelu came with opset 20."""
    scaled = graph.op("Mul", [x, _real(graph, "half_root", 0.5**0.5)], f"{x}/scaled")
    raised = graph.op(
        "Add", [graph.op("Erf", [scaled], f"{x}/erf"), _real(graph, "one", 1.0)], f"{x}/raised"
    )
    half = graph.op("Mul", [x, _real(graph, "half", 0.5)], f"{x}/half")
    return graph.op("Mul", [half, raised], f"{x}/gelu")


def _layer(graph: GraphBuilder, encoder: Encoder, layer: int, x: str, mask: str) -> str:
    prefix = f"{encoder.prefix}encoder.layer.{layer}"
    attended = _attention(graph, encoder, f"{prefix}.attention", x, mask)
    x = graph.op("Add", [x, attended], f"{prefix}/attended")
    x = _norm(graph, encoder, x, f"{prefix}.attention.output.LayerNorm")
    wide = graph.linear(
        x, f"{prefix}.intermediate.dense", (encoder.intermediate, encoder.hidden), bias=True
    )
    narrow = graph.linear(
        _gelu(graph, wide),
        f"{prefix}.output.dense",
        (encoder.hidden, encoder.intermediate),
        bias=True,
    )
    x = graph.op("Add", [x, narrow], f"{prefix}/changed")
    return _norm(graph, encoder, x, f"{prefix}.output.LayerNorm")


def _mean(graph: GraphBuilder, x: str) -> str:
    """Over the tokens that are no padding; of none at all, zero."""
    kept = graph.op("Cast", ["attention_mask"], "kept", to=TensorProto.FLOAT)
    axes = graph.constant("token_axis", np.array([2], dtype=np.int64))
    kept = graph.op("Unsqueeze", [kept, axes], "kept_tokens")
    chosen = graph.op("Mul", [x, kept], "chosen")
    axis = graph.shape(1)
    total = graph.op("ReduceSum", [chosen, axis], "total", keepdims=0)
    count = graph.op("ReduceSum", [kept, axis], "count", keepdims=0)
    count = graph.op("Max", [count, _real(graph, "one", 1.0)], "count_or_one")
    return graph.op("Div", [total, count], "mean")


def _first(graph: GraphBuilder, x: str) -> str:
    """The state of each text's first token."""
    first = graph.constant("first", np.array(0, dtype=np.int64))
    return graph.op("Gather", [x, first], "cls", axis=1)


def _scored(graph: GraphBuilder, encoder: Encoder, x: str) -> None:
    hidden = encoder.hidden
    dense, out = (
        ("bert.pooler.dense", "classifier")
        if encoder.head == "bert"
        else ("classifier.dense", "classifier.out_proj")
    )
    x = graph.linear(_first(graph, x), dense, (hidden, hidden), bias=True)
    x = graph.op("Tanh", [x], "pooled")
    graph.op("Identity", [graph.linear(x, out, (1, hidden), bias=True)], "score")


def _pooled(graph: GraphBuilder, pooling: Pooling, x: str) -> None:
    pooled = _first(graph, x) if pooling.mode == "cls" else _mean(graph, x)
    if pooling.normalised:
        length = graph.op("ReduceL2", [pooled], "norm", axes=[-1], keepdims=1)
        length = graph.op("Max", [length, _real(graph, "smallest_norm", 1e-12)], "norm_or_tiny")
        graph.op("Div", [pooled, length], "embedding")
    else:
        graph.op("Identity", [pooled], "embedding")


def build_encoder(
    encoder: Encoder, pooling: Pooling | None, tensors: Mapping[str, Tensor]
) -> tuple[onnx.ModelProto, list[Weight]]:
    """The graph without its weights, and the weights in the order in which they are stored.

    `pooling` is None for those that judge pairs.
    """
    graph = GraphBuilder(tensors)
    x = _embedded(graph, encoder)
    mask = _mask(graph)
    for layer in range(encoder.layers):
        x = _layer(graph, encoder, layer, x, mask)
    graph.op("Identity", [x], "last_hidden_state")
    if pooling is None:
        _scored(graph, encoder, x)
        made, size = "score", 1
    else:
        _pooled(graph, pooling, x)
        made, size = "embedding", encoder.hidden
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    states: list[str | int | None] = ["batch", "sequence", encoder.hidden]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, states),
        helper.make_tensor_value_info(made, TensorProto.FLOAT, ["batch", size]),
    ]
    model = graph.model("encoder", OPSET, IR_VERSION, inputs, outputs)
    return model, list(graph.weights.values())
