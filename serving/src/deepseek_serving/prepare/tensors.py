"""Weights kept beside an ONNX file, read without loading them and written one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import PrepareError

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
ALIGNMENT = 4096


@dataclass(frozen=True)
class Stored:
    """A tensor to be written: its type, its shape, and its bytes made only when it is its turn."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[Array]]


def read_model(path: Path) -> onnx.ModelProto:
    """The graph alone; its weights stay on disk."""
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise PrepareError(f"{path}: no such file; deepseek-export writes it") from error
    except Exception as error:
        # the kind depends on the protobuf library: its errors share no base class
        raise PrepareError(f"{path}: not an ONNX file: {error}") from error


def open_weights(folder: Path, tensor: onnx.TensorProto) -> Floats:
    """An FP32 initializer as an array whose pages are read when they are used."""
    if tensor.data_type != TensorProto.FLOAT:
        raise PrepareError(
            f"{folder}: initializer {tensor.name!r} is "
            f"{TensorProto.DataType.Name(tensor.data_type)}; an FP32 graph is needed"
        )
    shape = tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = folder / entries["location"]
    if Path(entries["location"]).name != entries["location"]:
        raise PrepareError(f"{folder}: initializer {tensor.name!r} lies outside the folder")
    offset, size = int(entries.get("offset", 0)), 4 * math.prod(shape)
    if not path.is_file():
        raise PrepareError(f"{path}: no such file; the graph keeps its weights there")
    if offset + size > path.stat().st_size:
        raise PrepareError(
            f"{path}: truncated: initializer {tensor.name!r} ends at byte {offset + size}, "
            f"the file has {path.stat().st_size}"
        )
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=shape)


def write_weights(file: BinaryIO, tensors: Iterable[Stored]) -> list[onnx.TensorProto]:
    """Append the tensors to `file`, each at the start of a page; initializers that point there."""
    location = Path(file.name).name
    initializers = []
    for tensor in tensors:
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        offset = file.tell()
        for block in tensor.blocks():
            file.write(np.ascontiguousarray(block).tobytes())
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


def scalar(name: str, value: Array, data_type: int) -> onnx.TensorProto:
    """A small constant, kept in the graph itself."""
    proto = helper.make_tensor(name, data_type, list(value.shape), value.tobytes(), raw=True)
    return proto
