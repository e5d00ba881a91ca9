"""Names of the files in the directory of a graph or an engine."""

from __future__ import annotations

from deepseek_serving.artifacts import engines

# a decoder or an encoder, as deepseek-export and deepseek-prepare write it
GRAPH_FILE = "decoder.onnx"
ENCODER_FILE = "encoder.onnx"
RECORD_FILE = "export.json"
GOLDEN_FILE = "golden.json"
# what an engine was built for
KEY_FILE = "key.json"
# serialized by TensorRT or TensorRT-RTX
PLAN_FILE = engines.PLAN_FILE
# as ONNX Runtime's optimizer leaves it; its weights lie beside it
OPTIMIZED_FILE = engines.OPTIMIZED_FILE


def data_file(graph_file: str) -> str:
    """Where a graph keeps its weights."""
    return f"{graph_file}.data"
