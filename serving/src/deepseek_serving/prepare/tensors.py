"""Weights kept beside an ONNX file, read without loading them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_serving.errors import PrepareError

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]


def read_model(path: Path) -> onnx.ModelProto:
    """The graph alone; its weights stay on disk."""
    try:
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise PrepareError(f"{path}: no such file; deepseek-export writes it") from error
    except Exception as error:
        # the kind depends on the protobuf library: its errors share no base class
        raise PrepareError(f"{path}: not an ONNX file: {error}") from error


def open_weights(directory: Path, tensor: onnx.TensorProto) -> Floats:
    """An FP32 initializer as an array whose pages are read when they are used."""
    if tensor.data_type != TensorProto.FLOAT:
        raise PrepareError(
            f"{directory}: initializer {tensor.name!r} is "
            f"{TensorProto.DataType.Name(tensor.data_type)}; an FP32 graph is needed"
        )
    shape = tuple(tensor.dims)
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = directory / entries["location"]
    if Path(entries["location"]).name != entries["location"]:
        raise PrepareError(f"{directory}: initializer {tensor.name!r} lies outside the directory")
    offset, size = int(entries.get("offset", 0)), 4 * math.prod(shape)
    if not path.is_file():
        raise PrepareError(f"{path}: no such file; the graph keeps its weights there")
    if offset + size > path.stat().st_size:
        raise PrepareError(
            f"{path}: truncated: initializer {tensor.name!r} ends at byte {offset + size}, "
            f"the file has {path.stat().st_size}"
        )
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=shape)


def scalar(name: str, value: Array, data_type: int) -> onnx.TensorProto:
    """A small constant, kept in the graph itself."""
    return helper.make_tensor(name, data_type, list(value.shape), value.tobytes(), raw=True)
