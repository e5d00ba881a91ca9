"""What the commands write: a folder, whole or not at all, and in it a graph with its weights."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deepseek_serving.errors import ServingError

RECORD_FILE = "export.json"
GOLDEN_FILE = "golden.json"
ALIGNMENT = 4096
BLOCK_BYTES = 2**20
# for the graph without its weights, and the records
SMALL_FILES = 16 * 2**20


@dataclass(frozen=True)
class Stored:
    """A tensor to be written: its type, its shape, and its bytes made only when it is its turn."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]


def data_file(graph_file: str) -> str:
    """Where a graph keeps its weights."""
    return f"{graph_file}.data"


def refuse_existing(out: Path, error: type[ServingError]) -> None:
    """Raise `error` unless a new folder can take the place of `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise error(f"{out}: exists already; name a folder that does not")


def size_of_weights(tensors: Iterable[Stored]) -> int:
    """Bytes that the tensors take on disk, each on pages of its own."""
    total = 0
    for tensor in tensors:
        # two values of four bits share a byte
        packed = 2 if tensor.data_type == TensorProto.INT4 else 1
        item = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        length = math.prod(tensor.shape) * item // packed
        total += length + -length % ALIGNMENT
    return total


def refuse_without_space(out: Path, needed: int, error: type[ServingError]) -> None:
    """Raise `error` unless `needed` bytes and the small files fit where `out` will be."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = needed + SMALL_FILES, shutil.disk_usage(place).free
    if free < needed:
        raise error(
            f"{out}: {needed} bytes are needed, and {place} has {free} bytes free; free some "
            "space, or name a folder on a larger file system"
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when all went well, and is gone otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial.chmod(0o755)
        yield partial
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_graph(
    folder: Path, graph_file: str, model: onnx.ModelProto, tensors: Iterable[Stored]
) -> None:
    """Write the graph, its tensors beside it, and have ONNX check both."""
    with (folder / data_file(graph_file)).open("wb") as file:
        model.graph.initializer.extend(write_tensors(file, tensors))
    (folder / graph_file).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(folder / graph_file, full_check=True)


def write_tensors(file: BinaryIO, tensors: Iterable[Stored]) -> list[onnx.TensorProto]:
    """Append each tensor at the start of a page; initializers that point there."""
    location = Path(file.name).name
    initializers = []
    for tensor in tensors:
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        offset = file.tell()
        for block in tensor.blocks():
            # as bytes: the buffers of the small types of ml_dtypes cannot be written as they are
            file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        proto = TensorProto(
            name=tensor.name,
            data_type=tensor.data_type,
            dims=tensor.shape,
            data_location=TensorProto.EXTERNAL,
        )
        length = file.tell() - offset
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            proto.external_data.add(key=key, value=str(value))
        initializers.append(proto)
    return initializers


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write it so that the same value gives the same bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The hash of a file, read in bounded blocks; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
