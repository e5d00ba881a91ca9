"""Prepared graphs: what is in them, what they answer, what the gate measures, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, numpy_helper
from support import CHECKPOINT, Texts, command, trained
from tokenizers import Tokenizer, processors

from deepseek_serving.errors import CheckpointError, EngineError, GateError, PrepareError
from deepseek_serving.export.exporter import export
from deepseek_serving.model_files.graphs import Stored, size_of_weights, write_tensors
from deepseek_serving.prepare import numerics, preparer
from deepseek_serving.prepare.cli import main
from deepseek_serving.prepare.corpus import read_corpus, windows
from deepseek_serving.prepare.emulation import at_every_position, in_fp32
from deepseek_serving.prepare.evaluation import Runner, channel_magnitudes, compare
from deepseek_serving.prepare.golden import Golden
from deepseek_serving.prepare.passes import matrices, prepare_graph
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare
from deepseek_serving.prepare.smoothing import Smoothed, smooth, unsmoothed
from deepseek_serving.prepare.tensors import open_weights, read_model
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

# the layers of the shipped checkpoint hold seven matrices each
MATRICES = 4 * 7
ON_THE_CPU = ["fp16", "int8", "int4", "fp8"]


def answer(engine: OnnxRuntimeEngine, tokenizer: ChatTokenizer, question: str) -> str:
    """The greedy answer to one question."""
    prompt = tokenizer.prompt([{"role": "user", "content": question}])
    token = int(engine.prefill(0, prompt, 0).tokens[0, 0])
    stream, text, length = tokenizer.stream(), "", len(prompt)
    while token != 2 and length < engine.max_len:
        text += stream.push(token)
        token = int(engine.decode([token], [length]).tokens[0, 0])
        length += 1
    return text


def record(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return value


def initializers(folder: Path) -> dict[str, onnx.TensorProto]:
    model = onnx.load(folder / "decoder.onnx")
    return {tensor.name: tensor for tensor in model.graph.initializer}


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


# --- what it answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_the_graph_itself_gives_trained_answers_in_onnx_runtime(
    prepared: dict[str, Path], name: str
) -> None:
    """Not emulated: the prepared graph with its Q/DQ, in the service's engine."""
    engine = OnnxRuntimeEngine(prepared[name], threads=1, slots=2)
    tokenizer = ChatTokenizer(prepared[name])
    for question, expected in trained()[:: len(trained()) // 8]:
        assert answer(engine, tokenizer, question) == expected


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_what_is_judged_is_what_the_graph_computes(prepared: dict[str, Path], name: str) -> None:
    """The FP32 form that the gate judges, against ONNX Runtime on the prepared graph itself."""
    folder = prepared[name]
    tokens = ChatTokenizer(folder).prompt([{"role": "user", "content": trained()[0][0]}])
    emulated = in_fp32(at_every_position(read_model(folder / "decoder.onnx")), len(tokens))
    (expected,) = Runner(emulated, folder, len(tokens), 1).run(tokens)
    engine = OnnxRuntimeEngine(folder, threads=1)
    for position, token in enumerate(tokens):
        engine.prefill(0, [token], position)
        found = engine.logits()[0]
        # a value on the edge between two steps may fall to either side, and ONNX Runtime's own
        # INT4 kernel rounds activations to eight bits
        scale = np.abs(expected[position]).max()
        difference = np.abs(found - expected[position]).max()
        assert difference < scale * (0.01 if name == "fp16" else 0.12)
        assert np.corrcoef(found, expected[position])[0, 1] > 0.995


def test_rounding_is_not_optimised_away(prepared: dict[str, Path], graph: Path) -> None:
    """An emulated graph differs from FP32 by about what its type loses."""
    tokens = ChatTokenizer(graph).prompt([{"role": "user", "content": trained()[0][0]}])
    source = at_every_position(read_model(graph / "decoder.onnx"))
    (expected,) = Runner(source, graph, len(tokens), 1).run(tokens)
    errors = {}
    for name in ("fp16", "bf16"):
        model = at_every_position(read_model(prepared[name] / "decoder.onnx"))
        (found,) = Runner(in_fp32(model, len(tokens)), prepared[name], len(tokens), 1).run(tokens)
        kind = np.float16 if name == "fp16" else ml_dtypes.bfloat16
        np.testing.assert_array_equal(found, found.astype(kind).astype(np.float32))
        errors[name] = float(np.abs(found - expected).mean())
    # eight times coarser
    assert 4 < errors["bf16"] / errors["fp16"] < 16


def test_what_the_cache_held_before_is_never_read(prepared: dict[str, Path]) -> None:
    tokenizer = ChatTokenizer(prepared["fp16"])
    prompt = tokenizer.prompt([{"role": "user", "content": trained()[3][0]}])
    clean, dirty = (OnnxRuntimeEngine(prepared["fp16"], threads=1) for count in range(2))
    for cache in dirty.caches.values():
        assert cache.shape[2] >= len(prompt)
        cache[:] = 7
    expected = clean.prefill(0, prompt, 0).values.copy()
    dirty.prefill(0, prompt[:5], 0)
    np.testing.assert_allclose(dirty.prefill(0, prompt[5:], 5).values, expected, atol=0.1)
    assert not np.allclose(expected[0, 0], expected[0, 1:], atol=0.1)


def test_bf16_is_refused_by_the_engine_without_its_kernels(prepared: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="bf16 with a cache of bfloat16"):
        OnnxRuntimeEngine(prepared["bf16"])


# --- calibration ----------------------------------------------------------------------------------


def test_scales_come_from_the_calibration_text(
    prepared: dict[str, Path], graph: Path, texts: Texts, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Which hosts are in the lab?\nzzzz 0x1f &&&& qqq\n", encoding="utf-8")
    loose = Options("fp8", texts.held_out, other, max_kl_divergence=10, min_top1_agreement=0)
    prepare(graph, tmp_path / "out", replace(loose, max_perplexity_increase=10))
    one, two = initializers(prepared["fp8"]), initializers(tmp_path / "out")
    scales = [name for name in one if name.endswith("norm/scale")]
    assert len(scales) == 2 * 4
    for name in scales:
        # it saw less text, so that it saw no larger values
        assert numpy_helper.to_array(two[name]) <= numpy_helper.to_array(one[name])
    assert any(
        numpy_helper.to_array(two[name]) < numpy_helper.to_array(one[name]) for name in scales
    )
    assert (
        record(tmp_path / "out")["preparation"]["calibration"]["sha256"]
        != record(prepared["fp8"])["preparation"]["calibration"]["sha256"]
    )


def test_magnitudes_are_those_of_the_activations(graph: Path) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    corpus = graph.parent / "few.txt"
    corpus.write_text("What is this project?\nHow many hosts?\n", encoding="utf-8")
    texts = windows(read_corpus(corpus), tokenizer, length=64, limit=1000)
    source = read_model(graph / "decoder.onnx")
    found = channel_magnitudes(source, graph, texts, 1)
    assert set(found) == {matrix.activation for matrix in matrices(source)}
    name = "model.layers.0.input_layernorm/norm"
    table = open_weights(graph, _tensor(source, "model.embed_tokens.weight"))
    weight = open_weights(graph, _tensor(source, "model.layers.0.input_layernorm.weight"))
    rows = table[[token for sequence in texts.sequences for token in sequence]]
    normed = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(found[name], np.abs(normed).max(axis=0), rtol=1e-4)


def _tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    tensors: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
    return tensors[name]


def test_smoothing_changes_nothing_but_makes_int8_better(
    graph: Path, texts: Texts, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    source = read_model(graph / "decoder.onnx")
    held_out = windows(read_corpus(texts.held_out), tokenizer, length=512, limit=1500)
    seen = windows(read_corpus(texts.calibration), tokenizer, length=512, limit=3000)
    magnitudes = channel_magnitudes(source, graph, seen, 1)
    smoothed = smooth(source, graph, magnitudes)
    assert len(smoothed.scaling.inputs) == 4 * 6
    for factors in smoothed.scaling.inputs.values():
        np.testing.assert_array_equal(np.exp2(np.rint(np.log2(factors))), factors)
    # how far apart the channels are depends on the weights; that some are does not
    assert max(len(set(factors.tolist())) for factors in smoothed.scaling.inputs.values()) > 1
    distances: list[float] = []
    for choice in (smoothed, unsmoothed(magnitudes)):
        out = tmp_path / str(len(distances))
        out.mkdir()
        prepared = prepare_graph(
            source,
            graph,
            PRECISIONS["int8"],
            block=64,
            max_len=512,
            largest=choice.largest,
            scaling=choice.scaling,
        )
        with (out / "decoder.onnx.data").open("wb") as file:
            prepared.model.graph.initializer.extend(write_tensors(file, prepared.weights))
        distances.append(compare((source, graph), (prepared.model, out), held_out, 1).kl_mean)
    assert distances[0] < 0.7 * distances[1]


# --- numbers --------------------------------------------------------------------------------------

matrix = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4).map(lambda n: 16 * n), st.integers(1, 9)),
    elements=st.floats(-100, 100, width=32),
)


@settings(max_examples=60)
@given(matrix)
def test_no_weight_is_further_than_half_a_step(weights: npt.NDArray[np.float32]) -> None:
    made = numerics.by_column(numerics.Scaled(weights), TensorProto.INT8)
    scale = made.scale.astype(np.float32)
    assert (np.abs(weights - made.values.astype(np.float32) * scale) <= scale * 0.5001).all()
    fp8 = numerics.by_column(numerics.Scaled(weights), TensorProto.FLOAT8E4M3FN)
    back = fp8.values.astype(np.float32) * fp8.scale.astype(np.float32)
    # three bits after the leading one; below the smallest normal value the steps are fixed
    smallest = fp8.scale.astype(np.float32) * 2.0**-9
    assert (np.abs(weights - back) <= np.maximum(np.abs(weights) / 16, smallest) * 1.001).all()


@settings(max_examples=60)
@given(matrix)
def test_chosen_int4_steps_are_no_worse_than_the_widest(weights: npt.NDArray[np.float32]) -> None:
    made = numerics.by_block(numerics.Scaled(weights), 16)
    scale = np.repeat(made.scale.astype(np.float32), 16, axis=0)
    error = np.square(weights - made.values.astype(np.float32) * scale).sum()
    widest = np.abs(weights.reshape(-1, 16, weights.shape[1])).max(axis=1) / 7
    steps = np.repeat(np.where(widest > 0, widest, 1), 16, axis=0)
    plain = np.square(weights - np.rint(weights / steps) * steps).sum()
    # the plain steps are not rounded to FP16, the chosen ones are
    rounding = np.linalg.norm(weights) * 2.0**-10
    assert np.sqrt(error) <= np.sqrt(plain) * 1.001 + rounding * 1.1 + 1e-5


@given(arrays.arrays(np.int8, st.integers(1, 33), elements=st.integers(-8, 7)))
def test_int4_is_packed_as_onnx_reads_it(values: npt.NDArray[np.int8]) -> None:
    data = numerics.packed(values).tobytes()
    tensor = TensorProto(name="x", data_type=TensorProto.INT4, dims=values.shape, raw_data=data)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


def test_columns_are_the_same_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(1).normal(size=(64, 50)).astype(np.float32)
    factors = np.linspace(1, 2, 64, dtype=np.float32)
    whole = [
        numerics.by_block(numerics.Scaled(weights, factors), 16),
        numerics.by_column(numerics.Scaled(weights, factors), TensorProto.INT8),
    ]
    monkeypatch.setattr(numerics, "BLOCK_BYTES", 4 * 64 * 7)
    parts = [
        numerics.by_block(numerics.Scaled(weights, factors), 16),
        numerics.by_column(numerics.Scaled(weights, factors), TensorProto.INT8),
    ]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.scale, other.scale)


def test_memory_is_bounded_by_a_few_matrices(graph: Path, tmp_path: Path) -> None:
    source = read_model(graph / "decoder.onnx")
    largest = 4 * 1024 * 192
    tracemalloc.start()
    prepared = prepare_graph(
        source,
        graph,
        PRECISIONS["int4"],
        block=64,
        max_len=512,
        largest={},
        scaling=unsmoothed({}).scaling,
    )
    with (tmp_path / "decoder.onnx.data").open("wb") as file:
        write_tensors(file, prepared.weights)
    _current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (graph / "decoder.onnx.data").stat().st_size > 9 * largest
    assert peak < 4 * largest


# --- texts ----------------------------------------------------------------------------------------


def test_plain_and_json_lines_are_the_same_text(graph: Path, tmp_path: Path) -> None:
    documents = ["One host.", "Two hosts,  and\ta third.", '"Quoted" text']
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\n\n".join(documents), encoding="utf-8")
    first, *others = documents
    objects = [json.dumps(first), *(json.dumps({"text": text, "n": 1}) for text in others)]
    lines.write_text("\n".join(objects) + "\n", encoding="utf-8")
    assert read_corpus(plain).documents == read_corpus(lines).documents == tuple(documents)
    assert read_corpus(plain).sha256 != read_corpus(lines).sha256


def test_windows_are_bounded_and_lose_nothing(graph: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    path = tmp_path / "a.txt"
    path.write_text("The lab has six hosts: one gateway and others. " * 9 + "\nA b c d.\n")
    corpus = read_corpus(path)
    expected = [tokenizer.encode(document).ids for document in corpus.documents]
    found = windows(corpus, tokenizer, length=7, limit=10**6)
    assert max(len(sequence) for sequence in found.sequences) == 7
    joined = [token for sequence in found.sequences for token in sequence]
    # a last window of one token predicts nothing
    assert len(joined) >= sum(map(len, expected)) - 2
    assert joined[: len(expected[0]) - 1] == expected[0][: len(expected[0]) - 1]
    few = windows(corpus, tokenizer, length=7, limit=20)
    assert (few.tokens, few.documents) == (20, 1)


def test_a_first_token_is_not_given_twice(graph: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    path = tmp_path / "a.txt"
    path.write_text("<|im_start|>user\nuser asks\n", encoding="utf-8")
    found = windows(read_corpus(path), tokenizer, length=64, limit=100)
    assert [sequence[:2].count(1) for sequence in found.sequences] == [1, 1]


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no text in it"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'"fine"\n{"text": 3}\n', "line 2: neither a string nor an object"),
        ("a.jsonl", b"plain\n", "line 1: not JSON"),
        ("a.txt", b"a\n", "no document of at least two tokens"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    graph: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepareError, match=message):
        prepare(graph, tmp_path / "out", Options("fp16", tmp_path / name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_a_line_feed_ends_a_text(tmp_path: Path, newline: str, mark: str) -> None:
    texts = ("one\u2028still one\u0085and\u2029on", "two\x0b\x0c\x1c\x1d\x1e two", "a\rb")
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_bytes((mark + newline.join(texts) + newline).encode())
    assert read_corpus(plain).documents == texts
    # legal JSON: these need no escape
    written = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    lines.write_bytes((mark + newline.join(written)).encode())
    assert read_corpus(lines).documents == texts


def test_a_text_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(PrepareError, match="line 1: not JSON"):
        read_corpus(tmp_path / "a.jsonl")


@pytest.fixture
def source(graph: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may spoil."""
    copy = tmp_path / "source"
    shutil.copytree(graph, copy)
    return copy


def multiply(folder: Path, name: str, factor: float) -> None:
    """Multiply a weight in place."""
    tensor = _tensor(read_model(folder / "decoder.onnx"), name)
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


def test_an_existing_folder_is_never_overwritten(graph: Path, texts: Texts, tmp_path: Path) -> None:
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


# --- golden answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRECISIONS)
def test_golden_answers_are_those_of_the_judged_graph(
    prepared: dict[str, Path], texts: Texts, name: str
) -> None:
    folder = prepared[name]
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    assert (golden["schema"], golden["kind"], golden["tokens"]) == (1, "decoder", 8)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    held_out = windows(read_corpus(texts.held_out), tokenizer, length=512, limit=16384)
    inputs = [list(sequence[:32]) for sequence in held_out.sequences[:4]]
    assert [sequence["input"] for sequence in golden["sequences"]] == inputs
    emulated = in_fp32(at_every_position(read_model(folder / "decoder.onnx")), 32)
    runner = Runner(emulated, folder, 32, 1)
    for sequence in golden["sequences"]:
        (logits,) = runner.run(sequence["input"])
        assert len(sequence["top_indices"]) == len(sequence["top_values"]) == len(logits)
        for row, best, values in zip(
            logits, sequence["top_indices"], sequence["top_values"], strict=True
        ):
            assert len(set(best)) == 8
            np.testing.assert_allclose(row[best], values, rtol=1e-2, atol=1e-2)
            assert values == sorted(values, reverse=True)
            assert values[-1] >= np.sort(row)[-8] - 0.05


def test_equal_values_come_in_the_order_of_their_tokens() -> None:
    golden = Golden()
    row = np.zeros(20, dtype=np.float32)
    row[[3, 7]] = 1.0000001, 1.0
    golden.add([1, 2], np.stack([row, -row]))
    (sequence,) = golden.record()["sequences"]
    assert sequence["top_indices"][0] == [3, 7, 0, 1, 2, 4, 5, 6]
    assert sequence["top_values"][0] == [1.0, 1.0] + [0.0] * 6
    assert sequence["top_indices"][1] == [0, 1, 2, 4, 5, 6, 8, 9]


def test_golden_answers_are_few_and_short() -> None:
    golden = Golden()
    for length in (40, 2, 3, 4, 5):
        golden.add(list(range(length)), np.zeros((length, 3), dtype=np.float32))
    record = golden.record()
    assert record["tokens"] == 3
    assert [len(sequence["input"]) for sequence in record["sequences"]] == [32, 2, 3, 4]
    assert all(
        len(sequence["input"]) == len(sequence["top_values"]) for sequence in record["sequences"]
    )


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
