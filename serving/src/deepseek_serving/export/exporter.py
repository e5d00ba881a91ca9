"""Write a checkpoint's decoder graph and what the service needs beside it, whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

import deepseek_serving
from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.architecture import Decoder, describe, read_config
from deepseek_serving.export.graph import OPSET, Weight, build
from deepseek_serving.export.safetensors import read_checkpoint

GRAPH_FILE = "decoder.onnx"
DATA_FILE = "decoder.onnx.data"
ALIGNMENT = 4096
BLOCK_BYTES = 64 * 2**20
DEFAULT_MAX_LEN = 4096
REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = ("generation_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Parameters:
    """What the graph is made for; None takes what the checkpoint allows."""

    max_len: int | None = None
    slots: int = 4
    with_logits: bool = False


def _blocks(weight: Weight) -> Iterator[npt.NDArray[np.float32]]:
    """The weight's bytes in order, one bounded block after the other."""
    if isinstance(weight.source, np.ndarray):
        yield weight.source
    elif weight.transposed:
        # one matrix at a time is turned over; the largest of a decoder is a small part of it
        yield np.ascontiguousarray(weight.source.rows().T)
    else:
        row_bytes = 4 * int(np.prod(weight.shape[1:], dtype=np.int64))
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, weight.shape[0], step):
            yield weight.source.rows(start, min(start + step, weight.shape[0]))


def _external(weight: Weight, offset: int, size: int) -> onnx.TensorProto:
    tensor = TensorProto(
        name=weight.name,
        data_type=TensorProto.FLOAT,
        dims=weight.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", DATA_FILE), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _write_weights(file: BinaryIO, weights: Sequence[Weight]) -> list[onnx.TensorProto]:
    initializers = []
    for weight in weights:
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        offset = file.tell()
        for block in _blocks(weight):
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
        initializers.append(_external(weight, offset, file.tell() - offset))
    return initializers


def _max_len(decoder: Decoder, wanted: int | None) -> int:
    if wanted is None:
        return min(decoder.max_positions, DEFAULT_MAX_LEN)
    if not 2 <= wanted <= decoder.max_positions:
        raise CheckpointError(
            f"--max-len {wanted} is not between 2 and the checkpoint's "
            f"max_position_embeddings, {decoder.max_positions}"
        )
    return wanted


def _copied_files(checkpoint: Path) -> list[str]:
    missing = [name for name in REQUIRED_FILES if not (checkpoint / name).is_file()]
    if missing:
        raise CheckpointError(f"{checkpoint}: missing {', '.join(missing)}")
    return [*REQUIRED_FILES, *(n for n in OPTIONAL_FILES if (checkpoint / n).is_file())]


def _record(decoder: Decoder, max_len: int, parameters: Parameters) -> dict[str, Any]:
    return {
        "schema": 1,
        "architecture": decoder.architecture,
        "precision": "fp32",
        "parameters": {"max_len": max_len, "slots": parameters.slots},
        "cache": {
            "layers": decoder.layers,
            "kv_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
        },
        "vocabulary": decoder.vocabulary,
        "tools": {
            "deepseek-serving": deepseek_serving.__version__,
            "numpy": np.__version__,
            "onnx": onnx.__version__,
            "onnx-opset": str(OPSET),
            "python": platform.python_version(),
        },
    }


def _write_all(
    folder: Path, model: onnx.ModelProto, weights: Sequence[Weight], record: dict[str, Any]
) -> None:
    with (folder / DATA_FILE).open("wb") as file:
        model.graph.initializer.extend(_write_weights(file, weights))
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(folder / GRAPH_FILE, full_check=True)
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (folder / "export.json").write_text(text, encoding="utf-8")


def export(checkpoint: Path, out: Path, parameters: Parameters | None = None) -> None:
    """Export `checkpoint` to the new folder `out`; all is checked before a byte is written."""
    parameters = parameters or Parameters()
    if parameters.slots < 1:
        raise CheckpointError(f"--slots {parameters.slots} must be at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; name a folder that does not")
    decoder = describe(read_config(checkpoint))
    copied = _copied_files(checkpoint)
    max_len = _max_len(decoder, parameters.max_len)
    model, weights = build(
        decoder, read_checkpoint(checkpoint), max_len, with_logits=parameters.with_logits
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial.chmod(0o755)
        for name in copied:
            shutil.copyfile(checkpoint / name, partial / name)
        _write_all(partial, model, weights, _record(decoder, max_len, parameters))
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
