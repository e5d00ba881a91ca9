"""Write a checkpoint's graph and what the service needs beside it, whole or not at all."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

import deepseek_serving
from deepseek_serving.check.bounded import check
from deepseek_serving.errors import CheckpointError
from deepseek_serving.export import encoder as encoder_graph
from deepseek_serving.export import graph as decoder_graph
from deepseek_serving.export.architecture import Decoder, Encoder, describe, describe_encoder
from deepseek_serving.export.builder import Weight
from deepseek_serving.export.config import read_config, read_object, whole
from deepseek_serving.export.unwritten import refuse_unwritten
from deepseek_serving.model_files.directories import (
    new_directory,
    refuse_existing,
    refuse_without_space,
    write_json,
)
from deepseek_serving.model_files.graphs import Stored, size_of_weights, write_graph
from deepseek_serving.model_files.layout import ENCODER_FILE, GRAPH_FILE, RECORD_FILE
from deepseek_serving.model_files.safetensors import read_checkpoint
from deepseek_serving.text.known_tokens import numbered
from deepseek_serving.text.template import TEMPLATE_DIRECTORY, TEMPLATE_FILE, TOOL_USE

logger = logging.getLogger(__name__)

DEFAULT_MAX_LEN = 4096
REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
DECODER_FILES = (
    "generation_config.json",
    TEMPLATE_FILE,
    f"{TEMPLATE_DIRECTORY}/{TOOL_USE}.jinja",
)
# with the prompts that some encoders want before a question
ENCODER_FILES = ("config_sentence_transformers.json",)
ACTIVATIONS = ("Sigmoid", "Identity")


@dataclass(frozen=True)
class Parameters:
    """What the graph is made for; None takes what the checkpoint allows."""

    max_len: int | None = None
    slots: int = 4


@dataclass(frozen=True)
class _Plan:
    """All that is written, known and checked before the first byte."""

    file: str
    model: onnx.ModelProto
    weights: Sequence[Weight]
    copied: Sequence[str]
    record: dict[str, Any]


def _max_len(decoder: Decoder, wanted: int | None) -> int:
    if wanted is None:
        return min(decoder.max_positions, DEFAULT_MAX_LEN)
    if not 2 <= wanted <= decoder.max_positions:
        raise CheckpointError(
            f"--max-len {wanted} is not between 2 and the checkpoint's "
            f"max_position_embeddings, {decoder.max_positions}"
        )
    return wanted


def _copied_files(checkpoint: Path, optional: Sequence[str]) -> list[str]:
    missing = [name for name in REQUIRED_FILES if not (checkpoint / name).is_file()]
    if missing:
        raise CheckpointError(f"{checkpoint}: missing {', '.join(missing)}")
    return [*REQUIRED_FILES, *(name for name in optional if (checkpoint / name).is_file())]


def _record(architecture: str, opset: int, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "architecture": architecture,
        "precision": "fp32",
        **facts,
        "tools": {
            "deepseek-serving": deepseek_serving.__version__,
            "numpy": np.__version__,
            "onnx": onnx.__version__,
            "onnx-opset": str(opset),
            "python": platform.python_version(),
        },
    }


def _write(checkpoint: Path, out: Path, plan: _Plan) -> None:
    tensors = [Stored(w.name, TensorProto.FLOAT, w.shape, w.blocks) for w in plan.weights]
    copied = sum((checkpoint / name).stat().st_size for name in plan.copied)
    refuse_without_space(out, copied + size_of_weights(tensors), CheckpointError)
    with new_directory(out) as partial:
        for name in plan.copied:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(checkpoint / name, partial / name)
        write_graph(partial, plan.file, plan.model, tensors)
        write_json(partial / RECORD_FILE, plan.record)


def export(
    checkpoint: Path,
    out: Path,
    parameters: Parameters | None = None,
    *,
    zero_tensors: Sequence[str] = (),
) -> None:
    """Export a decoder to the new directory `out`; all is checked before a byte is written.

    `zero_tensors`: names or patterns of tensors that may be full of zeros.
    """
    parameters = parameters or Parameters()
    if parameters.slots < 1:
        raise CheckpointError(f"--slots {parameters.slots} must be at least 1")
    refuse_existing(out, CheckpointError)
    decoder = describe(read_config(checkpoint))
    check(checkpoint)
    copied = _copied_files(checkpoint, DECODER_FILES)
    max_len = _max_len(decoder, parameters.max_len)
    tensors = read_checkpoint(checkpoint)
    refuse_unwritten(tensors, zero_tensors)
    model, weights = decoder_graph.build(decoder, tensors, max_len)
    facts = {
        "parameters": {"max_len": max_len, "slots": parameters.slots},
        "cache": {
            "layers": decoder.layers,
            "kv_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
        },
        "vocabulary": decoder.vocabulary,
    }
    record = _record(decoder.architecture, decoder_graph.OPSET, facts)
    _warn_of_tokens_beyond(checkpoint, decoder.vocabulary)
    _write(checkpoint, out, _Plan(GRAPH_FILE, model, weights, copied, record))


def _warn_of_tokens_beyond(checkpoint: Path, vocabulary: int) -> None:
    """Tokens for which the model has no weights: the service refuses texts that hold them."""
    path = checkpoint / "tokenizer.json"
    numbers = numbered(read_object(path))
    beyond = sorted(number for number in numbers if number >= vocabulary)
    if beyond:
        named = ", ".join(f"{numbers[number]!r} ({number})" for number in beyond[:5])
        more = f" and {len(beyond) - 5} more" if len(beyond) > 5 else ""
        logger.warning(
            "%s: the model's table has the tokens 0 to %d, the tokenizer also has %s%s; the "
            "service refuses requests whose text holds one of them with status 400",
            path,
            vocabulary - 1,
            named,
            more,
        )


def _longest_text(checkpoint: Path, max_positions: int) -> int:
    """In tokens: what the model was trained for may be less than it has positions for."""
    path = checkpoint / "sentence_bert_config.json"
    config = read_object(path) if path.is_file() else {}
    longest = whole(config, "max_seq_length", max_positions, file=path.name)
    return min(longest, max_positions)


def _activation(checkpoint: Path) -> str:
    """What makes a score of the head's output: sigmoid, unless the files name Identity.

    As in sentence-transformers' CrossEncoder with one label.
    """
    config = read_config(checkpoint)
    more = config.get("sentence_transformers")
    named = config.get("sbert_ce_default_activation_function")
    if isinstance(more, Mapping):
        named = more.get("activation_fn", named)
    name = "Sigmoid" if named is None else str(named).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"config.json: the activation {named!r} of scores is not supported; "
            f"supported: {', '.join(ACTIVATIONS)}"
        )
    return name.lower()


def _made(checkpoint: Path, encoder: Encoder, pooling: encoder_graph.Pooling | None) -> Any:
    """What the graph makes of texts, for the record."""
    if pooling is None:
        return {"score": {"activation": _activation(checkpoint)}}
    return {
        "embedding": {
            "size": encoder.hidden,
            "pooling": pooling.mode,
            "normalised": pooling.normalised,
        }
    }


def export_encoder(checkpoint: Path, out: Path, *, zero_tensors: Sequence[str] = ()) -> None:
    """Export a text encoder to the new directory `out`; all is checked before a byte is written."""
    refuse_existing(out, CheckpointError)
    encoder = describe_encoder(read_config(checkpoint))
    check(checkpoint, decoder=False)
    pooling = None if encoder.head else encoder_graph.read_pooling(checkpoint)
    made = _made(checkpoint, encoder, pooling)
    copied = _copied_files(checkpoint, ENCODER_FILES)
    tensors = read_checkpoint(checkpoint)
    refuse_unwritten(tensors, zero_tensors)
    model, weights = encoder_graph.build_encoder(encoder, pooling, tensors)
    facts = {
        "parameters": {"max_len": _longest_text(checkpoint, encoder.longest)},
        **made,
        "vocabulary": encoder.vocabulary,
    }
    record = _record(encoder.architecture, encoder_graph.OPSET, facts)
    _write(checkpoint, out, _Plan(ENCODER_FILE, model, weights, copied, record))
