"""What deepseek-prepare writes, what it refuses, and when its gate lets nothing pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from prepared_graphs import initializers, record, tensor_of
from support import CHECKPOINT, Texts, command
from tokenizers import Tokenizer

from deepseek_serving.errors import CheckpointError, GateError, PrepareError
from deepseek_serving.export.exporter import export
from deepseek_serving.model_files.graphs import Stored, size_of_weights
from deepseek_serving.prepare import preparer
from deepseek_serving.prepare.cli import main
from deepseek_serving.prepare.corpus import read_corpus, windows
from deepseek_serving.prepare.emulation import at_every_position
from deepseek_serving.prepare.evaluation import Runner, compare
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare
from deepseek_serving.prepare.smoothing import Smoothed, smooth
from deepseek_serving.prepare.tensors import read_model

# the layers of the shipped checkpoint hold seven matrices each
MATRICES = 4 * 7


def dequantized(tensors: dict[str, onnx.TensorProto], name: str) -> npt.NDArray[np.float32]:
    """A weight as a reader of the ONNX standard understands it, without our own code."""
    values = numpy_helper.to_array(tensors[name]).astype(np.float32)
    scale = numpy_helper.to_array(tensors[f"{name}/scale"]).astype(np.float32)
    if scale.ndim == 2:
        scale = np.repeat(scale, values.shape[0] // scale.shape[0], axis=0)
    product: npt.NDArray[np.float32] = values * scale
    return product


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRECISIONS)
def test_types_are_those_of_the_precision(prepared: dict[str, Path], name: str) -> None:
    precision = PRECISIONS[name]
    model = read_model(prepared[name] / "decoder.onnx")
    onnx.checker.check_model(prepared[name] / "decoder.onnx", full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    types = [tensor.data_type for tensor in model.graph.initializer]
    assert TensorProto.FLOAT not in types
    weights = 0 if precision.weight_type is None else MATRICES
    # Q/DQ of activations has a zero of the same type
    zeros = 1 if precision.activations else 0
    assert types.count(precision.weight_type or -1) == weights + zeros
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == (4 * 4 if precision.activations else 0)
    assert kinds.count("DequantizeLinear") == weights + kinds.count("QuantizeLinear")
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        if value.name.startswith(("past_", "present_")):
            assert kind.elem_type == precision.float_type
            assert kind.shape.dim[2].dim_value == 512
        elif value.name in ("top_values", "logits"):
            assert kind.elem_type == TensorProto.FLOAT


def test_quantised_weights_are_within_half_a_step(prepared: dict[str, Path], graph: Path) -> None:
    sources = initializers(graph)
    for name in ("int8", "int4"):
        tensors = initializers(prepared[name])
        names = record(prepared[name])["preparation"]["quantized"]
        assert len(names) == MATRICES
        for matrix in names:
            if name == "int8" and not matrix.endswith("o_proj.weight"):
                continue  # the others are smoothed: what they hold depends on the calibration
            source = numpy_helper.to_array(sources[matrix])
            found = dequantized(tensors, matrix)
            scale = numpy_helper.to_array(tensors[f"{matrix}/scale"]).astype(np.float32)
            steps = (
                np.repeat(scale, source.shape[0] // scale.shape[0], 0) if name == "int4" else scale
            )
            error = np.abs(source - found) / steps
            # INT4 may cut off a block's largest weights, where that costs less in all
            assert np.quantile(error, 0.9 if name == "int4" else 1.0) <= 0.5 + 1e-3
            assert np.square(source - found).mean() < np.square(source).mean() * 0.02


def test_every_weight_is_used_and_files_lie_beside_the_graph(
    prepared: dict[str, Path], graph: Path
) -> None:
    for folder in prepared.values():
        model = read_model(folder / "decoder.onnx")
        used = {name for node in model.graph.node for name in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= used
        assert {path.name for path in folder.iterdir()} == {
            *(path.name for path in graph.iterdir()),
            "evaluation.json",
            "golden.json",
        }
    sizes = {name: (prepared[name] / "decoder.onnx.data").stat().st_size for name in prepared}
    assert sizes["int4"] < sizes["int8"] == sizes["fp8"] < sizes["fp16"] == sizes["bf16"]


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_record_says_how_it_was_made_and_how_good_it_is(
    prepared: dict[str, Path], graph: Path, texts: Texts, name: str
) -> None:
    found = record(prepared[name])
    exported = record(graph)
    assert found["precision"] == name
    assert found["parameters"] == exported["parameters"]
    assert found["tools"] == exported["tools"]
    calibration = found["preparation"]["calibration"]
    if PRECISIONS[name].activations:
        assert calibration["sha256"] == read_corpus(texts.calibration).sha256
        assert calibration["documents"] == len(texts.calibration.read_text().splitlines())
    else:
        assert calibration is None
    judged = json.loads((prepared[name] / "evaluation.json").read_text(encoding="utf-8"))
    assert judged == found["evaluation"]
    assert judged["held_out"]["sha256"] == read_corpus(texts.held_out).sha256
    assert judged["passed"] is True
    assert judged["predictions"] == judged["held_out"]["tokens"] - judged["held_out"]["documents"]
    thresholds = PRECISIONS[name].thresholds
    assert judged["perplexity"]["increase"] <= thresholds.perplexity_increase
    assert 1 >= judged["top1_agreement"] >= thresholds.top1_agreement
    assert 0 < judged["kl_divergence"]["mean"] <= thresholds.kl_divergence
    assert judged["kl_divergence"]["mean"] < judged["kl_divergence"]["p99"]
    assert judged["kl_divergence"]["p99"] < judged["kl_divergence"]["largest"]


def test_fewer_bits_are_further_from_the_model(prepared: dict[str, Path]) -> None:
    distance = {
        name: record(folder)["evaluation"]["kl_divergence"]["mean"]
        for name, folder in prepared.items()
    }
    assert distance["fp16"] < distance["bf16"] < distance["int8"] < distance["int4"]
    assert distance["bf16"] < distance["fp8"] < distance["int4"]


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_the_same_input_gives_the_same_bytes(
    prepared: dict[str, Path], graph: Path, texts: Texts, tmp_path: Path, name: str
) -> None:
    """In another process, through the command, and with another number of threads."""
    arguments = [str(graph), str(tmp_path / "out"), "--precision", name]
    if PRECISIONS[name].activations:
        arguments += ["--calibration", str(texts.calibration)]
    arguments += ["--held-out", str(texts.held_out), "--threads", "2"]
    done = subprocess.run(
        [command("deepseek-prepare"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'}: {name}: perplexity" in done.stdout
    for path in sorted(prepared[name].iterdir()):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_calibration_is_never_invented(
    graph: Path, texts: Texts, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments = [str(graph), str(tmp_path / "new" / "out"), "--precision", name]
    assert main([*arguments, "--held-out", str(texts.held_out)]) == 1
    message = capsys.readouterr().err
    assert f"--calibration FILE is needed: {name} quantises activations" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int3"}, "int3 is unknown; known: fp16, bf16, int8, int4, fp8"),
        ({"held_out": None}, "--held-out FILE is needed"),
        ({"calibration": Path("x")}, "--calibration has no use in int4"),
        ({"held_out": Path("/nowhere/x")}, "/nowhere/x: No such file"),
        ({"block_size": 48}, "--block-size 48 must be a power of two"),
        ({"block_size": 8}, "--block-size 8 must be a power of two, at least 16"),
        ({"window": 1}, "--window must be at least 2"),
        ({"held_out_tokens": 100}, "has 97 tokens to predict, at least 200"),
        ({"threads": -1}, "--threads -1"),
        ({"max_kl_divergence": -0.1}, "--max-kl-divergence -0.1 must not be negative"),
        ({"max_kl_divergence": float("nan")}, "--max-kl-divergence nan must not be negative"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(
    graph: Path, texts: Texts, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrepareError, match=message):
        prepare(graph, tmp_path / "out", replace(Options("int4", texts.held_out), **changes))
    assert list(tmp_path.iterdir()) == []


def test_held_out_text_must_be_other_text(graph: Path, texts: Texts, tmp_path: Path) -> None:
    shared = tmp_path / "shared.jsonl"
    lines = texts.held_out.read_text() + texts.calibration.read_text().splitlines()[0]
    shared.write_text(lines, encoding="utf-8")
    with pytest.raises(PrepareError, match=r"1 of its documents are in .*calibration.jsonl too"):
        prepare(graph, tmp_path / "out", Options("int8", shared, texts.calibration))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def source(graph: Path, tmp_path: Path) -> Path:
    """A copy of the exported directory that a test may spoil."""
    copy = tmp_path / "source"
    shutil.copytree(graph, copy)
    return copy


def multiply(folder: Path, name: str, factor: float) -> None:
    """Multiply a weight in place."""
    tensor = tensor_of(read_model(folder / "decoder.onnx"), name)
    entries = {
        entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"
    }
    data = np.memmap(
        folder / "decoder.onnx.data",
        dtype="<f4",
        mode="r+",
        offset=entries["offset"],
        shape=tuple(tensor.dims),
    )
    data *= np.float32(factor)
    data.flush()


def test_damaged_exports_are_refused(source: Path, texts: Texts, tmp_path: Path) -> None:
    options = Options("fp16", texts.held_out)
    data = source / "decoder.onnx.data"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size - 4)
    with pytest.raises(PrepareError, match=r"decoder.onnx.data: truncated: initializer"):
        prepare(source, tmp_path / "out", options)
    data.unlink()
    with pytest.raises(PrepareError, match=r"decoder.onnx.data: no such file"):
        prepare(source, tmp_path / "out", options)
    (source / "decoder.onnx").write_bytes(b"not ONNX")
    with pytest.raises(PrepareError, match=r"decoder.onnx: not an ONNX file"):
        prepare(source, tmp_path / "out", options)
    (source / "export.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PrepareError, match=r"export.json: not what deepseek-export writes"):
        prepare(source, tmp_path / "out", options)
    (source / "export.json").unlink()
    with pytest.raises(PrepareError, match=r"export.json: no such file"):
        prepare(source, tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_prepared_graph_is_not_prepared_again(
    prepared: dict[str, Path], texts: Texts, tmp_path: Path
) -> None:
    with pytest.raises(PrepareError, match="the graph is fp16; an fp32 graph"):
        prepare(prepared["fp16"], tmp_path / "out", Options("int4", texts.held_out))


def test_an_existing_directory_is_never_overwritten(
    graph: Path, texts: Texts, tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(PrepareError, match="exists already"):
        prepare(graph, tmp_path, Options("fp16", texts.held_out))


def test_signature_and_manifest_of_the_source_are_not_taken_over(
    source: Path, texts: Texts, tmp_path: Path
) -> None:
    for name in ("manifest.json", "pieces.meta4", "model.sig"):
        (source / name).write_text("of the source", encoding="utf-8")
    (source / "generation_config.json").write_text('{"do_sample": false}', encoding="utf-8")
    prepare(source, tmp_path / "out", Options("fp16", texts.held_out, threads=1))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"manifest.json", "pieces.meta4", "model.sig"}
    assert (tmp_path / "out" / "generation_config.json").read_text() == '{"do_sample": false}'


# --- the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--max-perplexity-increase", "0.0001", r"perplexity .* allowed \+0.01%"),
        ("--min-top1-agreement", "0.999", "most likely token is the same at .* asked for 99.90%"),
        ("--max-kl-divergence", "0.0001", "mean KL divergence is .* allowed 0.0001"),
    ],
)
def test_a_failed_gate_writes_nothing_and_says_why(
    graph: Path,
    texts: Texts,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    # one that is worse by every measure, which the others, by luck, need not be
    arguments = [str(graph), str(tmp_path / "out"), "--precision", "bf16", option, value]
    arguments += ["--held-out", str(texts.held_out)]
    assert main([*arguments, "--threads", "1"]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(
        "deepseek-prepare: accuracy gate failed, nothing was written: bf16"
    )
    assert output.err.count("(--") == 1
    assert re.search(message, output.err)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_misleads_fails_the_gate(
    graph: Path, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales a hundred times too small cut activations off: no default threshold lets that pass."""

    def mislead(*arguments: Any) -> Smoothed:
        found = smooth(*arguments)
        return replace(found, largest={k: v / 100 for k, v in found.largest.items()})

    monkeypatch.setattr(preparer, "smooth", mislead)
    with pytest.raises(GateError, match="perplexity"):
        prepare(graph, tmp_path / "out", Options("int8", texts.held_out, texts.calibration))
    assert list(tmp_path.iterdir()) == []


def test_activations_that_overflow_fp16_fail_the_gate(
    source: Path, texts: Texts, tmp_path: Path
) -> None:
    """The weights fit; what they make does not. In BF16 the same graph passes."""
    multiply(source, "model.layers.0.mlp.down_proj.weight", 3e4)
    with pytest.raises(GateError, match="not finite: its activations overflow the type"):
        prepare(source, tmp_path / "fp16", Options("fp16", texts.held_out, threads=1))
    prepare(source, tmp_path / "bf16", Options("bf16", texts.held_out, threads=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bf16", "source"]


def test_a_weight_that_overflows_fp16_is_named(source: Path, texts: Texts, tmp_path: Path) -> None:
    multiply(source, "model.layers.2.self_attn.v_proj.bias", 1e7)
    with pytest.raises(PrepareError, match=r"weight 'model.layers.2.self_attn.v_proj.bias' holds"):
        prepare(source, tmp_path / "out", Options("fp16", texts.held_out))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_model_that_is_broken_itself_is_not_blamed_on_the_precision(
    source: Path, texts: Texts, tmp_path: Path
) -> None:
    multiply(source, "model.layers.1.input_layernorm.weight", float("nan"))
    with pytest.raises(PrepareError, match="the FP32 graph gives values at"):
        prepare(source, tmp_path / "out", Options("int8", texts.held_out, texts.calibration))


def test_identical_graphs_are_at_distance_zero(graph: Path, texts: Texts) -> None:
    """The measure itself: FP32 against FP32, and perplexity as it is defined."""
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    read = windows(read_corpus(texts.held_out), tokenizer, length=64, limit=500)
    model = read_model(graph / "decoder.onnx")
    result = compare((model, graph), (model, graph), read, 1)
    assert (result.top1_agreement, result.kl_mean, result.perplexity_increase) == (1.0, 0.0, 0.0)
    losses = []
    runner = Runner(at_every_position(model), graph, 64, 1)
    for sequence in read.sequences:
        (logits,) = runner.run(sequence)
        for row, following in zip(logits.astype(np.float64), sequence[1:], strict=False):
            losses.append(np.log(np.exp(row - row.max()).sum()) - (row[following] - row.max()))
    assert result.predictions == len(losses)
    assert result.reference_perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-9)


# --- space ----------------------------------------------------------------------------------------


def test_a_full_disk_is_found_before_anything_is_written(
    graph: Path, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=2**20))
    with pytest.raises(PrepareError, match=r"\d+ bytes are needed, and .* has 1048576 bytes free"):
        prepare(graph, tmp_path / "out", Options("fp16", texts.held_out))
    with pytest.raises(CheckpointError, match=r"\d+ bytes are needed, and .* 1048576 bytes free"):
        export(CHECKPOINT, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_size_of_weights_is_known_before_they_are_made(
    prepared: dict[str, Path], name: str
) -> None:
    model = read_model(prepared[name] / "decoder.onnx")
    stored = [
        Stored(tensor.name, tensor.data_type, tuple(tensor.dims), lambda: iter(()))
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    written = (prepared[name] / "decoder.onnx.data").stat().st_size
    assert written <= size_of_weights(stored) < written + 4096
