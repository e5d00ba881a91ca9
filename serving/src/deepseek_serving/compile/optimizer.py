"""The flavour onnxruntime: the graph as ONNX Runtime's optimizer leaves it, to load faster.

A decoder is first rewritten as the engine on the processor would do it when it loads the graph.
Only optimizations that hold on every processor of the architecture are taken.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from deepseek_serving.compile.source import Source
from deepseek_serving.errors import BuildError
from deepseek_serving.model_files.layout import data_file
from deepseek_serving.runtime.onnxruntime import (
    check_kernels,
    open_decoder,
    open_graph,
    session_options,
)

# smaller ones stay in the graph itself
SMALLEST_EXTERNAL_BYTES = 1024


def optimize(source: Source, out: Path) -> str:
    """Write the optimized graph as `out` and its weights beside it; what is in it, as JSON."""

    def options() -> ort.SessionOptions:
        found = session_options()
        found.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        found.optimized_model_filepath = str(out)
        found.log_severity_level = 3
        for name, value in (
            ("session.optimized_model_external_initializers_file_name", data_file(out.name)),
            (
                "session.optimized_model_external_initializers_min_size_in_bytes",
                str(SMALLEST_EXTERNAL_BYTES),
            ),
        ):
            found.add_session_config_entry(name, value)
        return found

    try:
        if source.kind == "decoder":
            check_kernels(source.record)
            open_decoder(source.path, options)
        else:
            open_graph(source.path, options())
    except Exception as error:
        # ONNX Runtime's errors share no base class
        raise BuildError(
            f"{source.path}: ONNX Runtime has no CPU kernels for this {source.precision} graph: "
            f"{' '.join(str(error).split())}"
        ) from error
    model = onnx.load(out, load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    return json.dumps({"of": "graph", "operators": operators}, indent=1, sort_keys=True) + "\n"
