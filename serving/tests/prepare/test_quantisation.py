"""Numbers that weights become, and what the activations of a calibration text say of them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, numpy_helper
from prepared_graphs import initializers, record, tensor_of
from support import Texts
from tokenizers import Tokenizer

from deepseek_serving.model_files.graphs import write_tensors
from deepseek_serving.prepare import numerics
from deepseek_serving.prepare.corpus import read_corpus, windows
from deepseek_serving.prepare.evaluation import channel_magnitudes, compare
from deepseek_serving.prepare.passes import matrices, prepare_graph
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare
from deepseek_serving.prepare.smoothing import smooth, unsmoothed
from deepseek_serving.prepare.tensors import open_weights, read_model

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
    table = open_weights(graph, tensor_of(source, "model.embed_tokens.weight"))
    weight = open_weights(graph, tensor_of(source, "model.layers.0.input_layernorm.weight"))
    rows = table[[token for sequence in texts.sequences for token in sequence]]
    normed = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(found[name], np.abs(normed).max(axis=0), rtol=1e-4)


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
