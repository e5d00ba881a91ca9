"""The graph that is to be compiled: read without its weights, and refused if it is not whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto, helper

from deepseek_serving.errors import BuildError
from deepseek_serving.model_files.layout import ENCODER_FILE, GRAPH_FILE, RECORD_FILE

Dimension = int | None


@dataclass(frozen=True)
class Input:
    """A tensor that the graph takes; None is a free dimension."""

    name: str
    type: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class Source:
    """A graph with its record, and the files that hold its bytes."""

    path: Path
    kind: Literal["decoder", "encoder"]
    record: Mapping[str, Any]
    inputs: Sequence[Input]
    files: Sequence[Path]

    @property
    def precision(self) -> str:
        return str(self.record["precision"])

    @property
    def size(self) -> int:
        """Bytes of graph and weights."""
        return sum(path.stat().st_size for path in self.files)


def read_source(path: Path) -> Source:
    """Read and check the graph at `path` and the record beside it; raises BuildError."""
    if path.name not in (GRAPH_FILE, ENCODER_FILE):
        raise BuildError(
            f"{path}: must be named {GRAPH_FILE} or {ENCODER_FILE}, as deepseek-export and "
            "deepseek-prepare write it"
        )
    model = _read_model(path)
    files = [path, *_weights(path, model)]
    kind: Literal["decoder", "encoder"] = "decoder" if path.name == GRAPH_FILE else "encoder"
    record = _read_record(path.parent / RECORD_FILE)
    source = Source(path, kind, record, _inputs(model), files)
    if kind == "decoder":
        _refuse_unprepared(source)
    return source


def _read_model(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise BuildError(f"{path}: no such file") from error
    except Exception as error:
        # the kind depends on the protobuf library: its errors share no base class
        raise BuildError(f"{path}: not an ONNX file: {error}") from error
    # protobuf takes an empty file, and some that are cut off, for a message without fields
    if not model.graph.node:
        raise BuildError(f"{path}: not an ONNX file: it has no nodes")
    return model


def _read_record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _needed = record["precision"], record["parameters"]["max_len"]
        if preparation := record.get("preparation"):
            _needed = preparation["arguments"], preparation["tools"]
            _text = (preparation.get("calibration") or {}).get("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{path}: not what deepseek-export writes: {error!r}") from error
    checked: Mapping[str, Any] = record
    return checked


def _weights(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The files of the external initializers, each there and long enough."""
    ends: dict[str, tuple[int, str]] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            if end >= ends.get(location, (0, ""))[0]:
                ends[location] = (end, tensor.name)
    found = []
    for location, (end, name) in sorted(ends.items()):
        file = path.parent / location
        if Path(location).name != location:
            raise BuildError(
                f"{path}: initializer {name!r} lies outside the directory: {location!r}"
            )
        if not file.is_file():
            raise BuildError(
                f"{file}: missing; {path.name} keeps its weights there (initializer {name!r})"
            )
        if file.stat().st_size < end:
            raise BuildError(
                f"{file}: truncated: initializer {name!r} ends at byte {end}, the file has "
                f"{file.stat().st_size}"
            )
        found.append(file)
    return found


def _inputs(model: onnx.ModelProto) -> list[Input]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [_input(value) for value in model.graph.input if value.name not in constants]


def _input(value: onnx.ValueInfoProto) -> Input:
    tensor = value.type.tensor_type
    shape = tuple(_dimensions(tensor.shape.dim))
    return Input(value.name, helper.tensor_dtype_to_string(tensor.elem_type).lower(), shape)


def _dimensions(dims: Sequence[Any]) -> Iterator[Dimension]:
    for dim in dims:
        yield dim.dim_value if dim.HasField("dim_value") else None


def _refuse_unprepared(source: Source) -> None:
    preparation = source.record.get("preparation")
    if not isinstance(preparation, Mapping):
        raise BuildError(
            f"{source.path}: the decoder is {source.precision} as exported; engines are built from "
            "prepared graphs only (fp16, bf16, int8, int4, fp8): the fused attention of TensorRT "
            "has no FP32 form and drops the number of valid keys. Run deepseek-prepare first"
        )
    calibration = preparation.get("calibration") or {}
    if source.precision in ("int8", "fp8") and not calibration.get("sha256"):
        raise BuildError(
            f"{source.path}: {source.precision} quantises activations, but {RECORD_FILE} names no "
            "calibration text; prepare it again with --calibration"
        )
