"""What is built for real with TensorRT-RTX and ONNX Runtime, once and whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from engines import A100, CPU, Place, digest, run_build, snapshot
from support import trained
from test_encoder import encoder_checkpoint

from deepseek_serving.compile.key import read_fields
from deepseek_serving.compile.target import Wish
from deepseek_serving.export.exporter import export_encoder
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

TARGETS = {"fp16": "8.0", "int8": "8.0", "int4": "8.0", "fp8": "8.9"}


@pytest.mark.parametrize(("precision", "capability"), TARGETS.items())
def test_every_precision_is_built_once(
    prepared: dict[str, Path], tmp_path: Path, precision: str, capability: str
) -> None:
    graph, dest = prepared[precision] / "decoder.onnx", tmp_path / "store" / "engine"
    wish = Wish("tensorrt_rtx", capability)
    first = run_build(graph, dest, wish)
    assert first["changed"] is True
    assert first["rebuild_reason"] == f"there is no engine at {dest} yet"
    names = {"engine.plan", "key.json", "inspector.json", "build.log", "build.json"}
    names |= {path.name for path in prepared[precision].glob("golden.json")}
    assert {path.name for path in dest.iterdir()} == names
    assert {path.stat().st_mode & 0o777 for path in dest.iterdir()} == {0o644}
    assert dest.stat().st_mode & 0o777 == 0o755
    assert (dest / "engine.plan").stat().st_size > 10**6
    assert first["key"] == digest(dest / "key.json")
    fields = read_fields(dest / "key.json")
    assert fields == first["after"]
    assert fields["target"] == {"compute_capability": capability, "product": None}
    assert fields["graph"] == {
        path.name: digest(path) for path in prepared[precision].glob("decoder.onnx*")
    }
    assert (fields["calibration"] is not None) == (precision in ("int8", "fp8"))
    layers = json.loads((dest / "inspector.json").read_text())["Layers"]
    kinds = [layer["LayerType"] for layer in layers]
    assert kinds.count("KV_CACHE_UPDATE") == 2 * 4
    assert ("QUANTIZE" in kinds) == (precision in ("int8", "fp8"))
    assert "decoder.onnx" in (dest / "build.log").read_text()
    before = snapshot(dest)
    second = run_build(graph, dest, wish)
    assert (second["changed"], second["rebuild_reason"]) == (False, "")
    assert (second["key"], second["build"]) == (first["key"], first["build"])
    assert snapshot(dest) == before


def test_golden_inputs_come_along(prepared: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(prepared["fp16"], tmp_path / "graph")
    (tmp_path / "graph" / "golden.json").write_text('{"schema": 1}\n')
    place = Place(tmp_path, CPU)
    outcome = place.build()
    assert (place.dest / "golden.json").read_text() == '{"schema": 1}\n'
    assert "golden.json" in outcome.build["files"]


def test_a_text_encoder_is_built(tmp_path: Path) -> None:
    export_encoder(encoder_checkpoint(tmp_path / "checkpoint"), tmp_path / "graph")
    graph, dest = tmp_path / "graph" / "encoder.onnx", tmp_path / "engine"
    first = run_build(graph, dest, A100)
    assert first["after"]["preparation"] is None
    (profile,) = first["after"]["builder"]["profiles"]
    longest = json.loads((tmp_path / "graph" / "export.json").read_text())["parameters"]["max_len"]
    assert set(profile) == {"attention_mask", "input_ids", "token_type_ids"}
    assert all(shape["max"] == [32, longest] for shape in profile.values())
    assert (dest / "engine.plan").stat().st_size > 10**4
    assert run_build(graph, dest, A100)["changed"] is False


@pytest.mark.parametrize("precision", TARGETS)
def test_an_engine_for_the_cpu_answers_as_its_graph(
    prepared: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    graph, dest = prepared[precision], tmp_path / "engine"
    outcome = run_build(graph / "decoder.onnx", dest, CPU)
    assert {"engine.onnx", "engine.onnx.data"} <= set(outcome["build"]["files"])
    assert outcome["after"]["target"] == {"compute_capability": None, "product": None}
    operators = json.loads((dest / "inspector.json").read_text())["operators"]
    assert operators["GroupQueryAttention"] == 4
    # query, key and value at once, their output, and three of the MLP
    assert operators.get("MatMulNBits", 0) == (4 * 5 if precision == "int4" else 0)
    prompt = ChatTokenizer(graph).prompt([{"role": "user", "content": trained()[0][0]}])
    engines = [
        OnnxRuntimeEngine(graph, threads=1, optimized=optimized)
        for optimized in (None, dest / "engine.onnx")
    ]
    expected, found = (engine.prefill(0, prompt, 0) for engine in engines)
    for length in range(len(prompt), len(prompt) + 8):
        np.testing.assert_array_equal(found.tokens[:, :8], expected.tokens[:, :8])
        np.testing.assert_allclose(found.values, expected.values, atol=1e-2)
        last = [int(expected.tokens[0, 0])]
        expected, found = (engine.decode(last, [length]) for engine in engines)
