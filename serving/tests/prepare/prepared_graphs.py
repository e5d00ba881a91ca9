"""What prepared graphs and their records hold, as tests compare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx


def record(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return value


def initializers(folder: Path) -> dict[str, onnx.TensorProto]:
    model = onnx.load(folder / "decoder.onnx")
    return {tensor.name: tensor for tensor in model.graph.initializer}


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    tensors: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
    return tensors[name]
