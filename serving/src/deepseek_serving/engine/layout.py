"""The files of an engine's folder that more than its builder looks at."""

from __future__ import annotations

KEY_FILE = "key.json"
# serialized by TensorRT or TensorRT-RTX
PLAN_FILE = "engine.plan"
# as ONNX Runtime's optimizer leaves it; its weights lie beside it
OPTIMIZED_FILE = "engine.onnx"
