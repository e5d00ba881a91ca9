"""Write an ONNX graph with its weights beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from deepseek_serving.model_files.layout import data_file

ALIGNMENT = 4096


@dataclass(frozen=True)
class Stored:
    """A tensor to be written: its type, its shape, and its bytes made only when it is its turn."""

    name: str
    data_type: int
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]


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


def write_graph(
    directory: Path, graph_file: str, model: onnx.ModelProto, tensors: Iterable[Stored]
) -> None:
    """Write the graph, its tensors beside it, and have ONNX check both."""
    with (directory / data_file(graph_file)).open("wb") as file:
        model.graph.initializer.extend(write_tensors(file, tensors))
    (directory / graph_file).write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(directory / graph_file, full_check=True)


def write_tensors(file: BinaryIO, tensors: Iterable[Stored]) -> list[onnx.TensorProto]:
    """Append each tensor at the start of a page; initializers that point there."""
    location = Path(file.name).name
    initializers = []
    for tensor in tensors:
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        offset = file.tell()
        # as bytes: the buffers of the small types of ml_dtypes cannot be written as they are
        file.writelines(
            np.ascontiguousarray(block).reshape(-1).view(np.uint8).data for block in tensor.blocks()
        )
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
