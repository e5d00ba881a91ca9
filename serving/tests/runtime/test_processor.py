"""The decoder as it is rewritten for the processor, against the graph as it was exported."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from reference import FAMILIES, random_checkpoint
from support import trained
from test_families import LLAMA3, YARN

from deepseek_serving.errors import EngineError
from deepseek_serving.export.exporter import export
from deepseek_serving.model_files.layout import RECORD_FILE
from deepseek_serving.runtime import onnxruntime as runtime
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.runtime.processor import Dialect, for_the_processor
from deepseek_serving.text.tokenizer import ChatTokenizer

Floats = npt.NDArray[np.float32]
SLOTS, CHUNK, STEPS = 3, 5, 8
PROMPTS = (5, 17, 11)
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
EVERY: dict[str, dict[str, Any]] = {
    "plain": {"head_dim": 16},
    "no-grouping": {"head_dim": 16, "num_key_value_heads": 4},
    "one-kv-head": {"head_dim": 16, "num_key_value_heads": 1},
    "wide-heads": {"head_dim": 48, "tie_word_embeddings": True},
    "llama3": {"head_dim": 32, "rope_parameters": LLAMA3},
    "yarn": {"head_dim": 32, "rope_parameters": {**YARN, "attention_factor": 0.9}},
}
SOME: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaForCausalLM", "biases", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    ("Qwen3ForCausalLM", "bias", {"head_dim": 16, "attention_bias": True}),
]
CASES = [
    *((family, name, config) for family in FAMILIES for name, config in EVERY.items()),
    *SOME,
]


def as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> OnnxRuntimeEngine:
    """The engine over the graph that was exported."""

    def refuse(_graph: Path) -> Dialect:
        raise EngineError("not now")

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "for_the_processor", refuse)
        engine = OnnxRuntimeEngine(folder, threads=1, slots=SLOTS)
    assert not engine.fused
    return engine


def logits(engine: OnnxRuntimeEngine, vocabulary: int) -> list[Floats]:
    """Unequal prompts in chunks, then steps in which all take part, and all logits of both."""
    random = np.random.default_rng(3)
    found, lengths = [], []
    for slot, length in enumerate(PROMPTS):
        prompt = random.integers(0, vocabulary, length).tolist()
        for start in range(0, length, CHUNK):
            engine.prefill(slot, prompt[start : start + CHUNK], start)
            found.append(engine.logits()[0].copy())
        lengths.append(length)
    for _step in range(STEPS):
        # the same tokens for each engine, whatever it finds best
        engine.decode(random.integers(0, vocabulary, SLOTS).tolist(), lengths)
        found += [row.copy() for row in engine.logits()]
        lengths = [length + 1 for length in lengths]
    return found


@pytest.mark.parametrize(
    ("family", "config"),
    [(family, config) for family, _name, config in CASES],
    ids=[f"{family.removesuffix('ForCausalLM')}-{name}" for family, name, _config in CASES],
)
def test_logits_are_those_of_the_exported_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, config: dict[str, Any]
) -> None:
    checkpoint = random_checkpoint(tmp_path / "checkpoint", family, **{**HEADS, **config})
    export(checkpoint, tmp_path / "graph")
    engine = OnnxRuntimeEngine(tmp_path / "graph", threads=1, slots=SLOTS)
    assert engine.fused
    found = logits(engine, 40)
    plain = logits(as_it_is(tmp_path / "graph", monkeypatch), 40)
    for mine, expected in zip(found, plain, strict=True):
        assert np.abs(mine - expected).max() < 1e-4 * max(1, np.abs(expected).max())


def test_the_shipped_checkpoint(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OnnxRuntimeEngine(graph, threads=1, slots=SLOTS)
    found = logits(engine, 1000)
    for mine, expected in zip(found, logits(as_it_is(graph, monkeypatch), 1000), strict=True):
        assert np.abs(mine - expected).max() < 1e-4
    model = for_the_processor(graph / "decoder.onnx").model
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["GroupQueryAttention"] == 4
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "Transpose"} & set(operators)
    # a packed one, its output, and three of the MLP
    assert operators["MatMul"] == 4 * 5


@pytest.mark.parametrize(
    ("precision", "tolerance", "correlation"),
    [
        ("fp16", 0.01, 0.9999),
        ("int4", 0.12, 0.995),
        # whose activations are rounded in steps made for other prompts than these
        ("int8", 0.3, 0.97),
        ("fp8", 0.3, 0.97),
    ],
)
def test_prepared_graphs(
    prepared: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    tolerance: float,
    correlation: float,
) -> None:
    """They round activations where the rewritten graph has FP32; a value on an edge may move."""
    folder = prepared[precision]
    engine = OnnxRuntimeEngine(folder, threads=1, slots=SLOTS)
    assert engine.fused
    found = logits(engine, 1000)
    for mine, expected in zip(found, logits(as_it_is(folder, monkeypatch), 1000), strict=True):
        assert np.abs(mine - expected).max() < tolerance * np.abs(expected).max()
        assert np.corrcoef(mine, expected)[0, 1] > correlation


def test_heads_without_a_kernel_run_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export(random_checkpoint(tmp_path / "checkpoint", head_dim=12), tmp_path / "graph")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        engine = OnnxRuntimeEngine(tmp_path / "graph", threads=1)
    assert not engine.fused
    assert caplog.messages == [
        f"{tmp_path / 'graph' / 'decoder.onnx'} runs as it is, which may be slow: its heads have "
        "12 elements, GroupQueryAttention takes multiples of 16"
    ]
    engine.prefill(0, [1, 2, 3], 0)


# --- independence ---------------------------------------------------------------------------------


def test_reading_a_chunk_again_gives_the_same_bits(graph: Path) -> None:
    """In another slot, beside others, and after a beginning that the slot held already."""
    tokens = ChatTokenizer(graph).prompt([{"role": "user", "content": trained()[0][0]}])
    engine = OnnxRuntimeEngine(graph, threads=2, slots=SLOTS)
    engine.prefill(0, tokens[:16], 0)
    engine.prefill(0, tokens[16:], 16)
    alone = engine.logits()[0].copy()
    engine.prefill(1, tokens[:16], 0)
    engine.prefill(2, [7] * 100, 0)
    engine.decode([1, 2, 3], [len(tokens), 16, 100])
    engine.prefill(1, tokens[16:], 16)
    np.testing.assert_array_equal(engine.logits()[0], alone)
    # the step above wrote behind what slot 0 had read
    engine.prefill(0, tokens[16:], 16)
    np.testing.assert_array_equal(engine.logits()[0], alone)


def test_what_stands_in_other_slots_changes_no_bit(graph: Path) -> None:
    engine = OnnxRuntimeEngine(graph, threads=2, slots=SLOTS)
    engine.prefill(1, list(range(20, 50)), 0)
    rows = []
    for others in ([], [9] * 40, [11] * 300):
        if others:
            engine.prefill(0, others, 0)
            engine.prefill(2, others, 0)
        engine.decode([5, 6, 7], [len(others), 30, len(others)])
        rows.append(engine.logits()[1].copy())
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])


def test_what_lies_behind_a_sequence_is_never_read(graph: Path) -> None:
    clean, dirty = (OnnxRuntimeEngine(graph, threads=1, slots=1) for _engine in range(2))
    for cache in dirty.caches.values():
        cache[:] = np.nan
    for engine in (clean, dirty):
        engine.prefill(0, [5, 6, 7], 0)
        engine.prefill(0, [8, 9], 3)
        engine.decode([10], [5])
    np.testing.assert_array_equal(dirty.logits(), clean.logits())


def test_a_step_past_the_end_is_refused(graph: Path) -> None:
    engine = OnnxRuntimeEngine(graph, threads=1, slots=1, max_len=100)
    engine.prefill(0, [5] * 100, 0)
    with pytest.raises(EngineError, match=r"^101 tokens do not fit into a cache of 100$"):
        engine.decode([5], [100])


# --- weights --------------------------------------------------------------------------------------


def stored(folder: Path, name: str) -> npt.NDArray[Any]:
    model = onnx.load(folder / "decoder.onnx")
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    return numpy_helper.to_array(tensor)


def by_blocks(steps: npt.NDArray[Any], scales: npt.NDArray[Any]) -> Floats:
    """What MatMulNBits multiplies by, [inputs, outputs], as its documentation has it."""
    pairs = np.stack([steps & 15, steps >> 4], axis=-1).reshape(*steps.shape[:2], -1)
    values: Floats = (pairs.astype(np.float32) - 8) * scales[..., None]
    return values.reshape(len(steps), -1).T


def test_blocks_of_4_bits_keep_their_values(prepared: dict[str, Path]) -> None:
    folder = prepared["int4"]
    dialect = for_the_processor(folder / "decoder.onnx")
    made = {name: make() for name, make in dialect.weights}
    # the head stays as it was
    assert not [node for node in dialect.model.graph.node if node.op_type == "MatMul"]
    products = [node for node in dialect.model.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 4 * 5

    def matrix(name: str) -> Floats:
        values = stored(folder, f"{name}.weight").astype(np.float32)
        scale = stored(folder, f"{name}.weight/scale").astype(np.float32)
        return values * np.repeat(scale, len(values) // len(scale), axis=0)

    for node in products:
        prefix = node.name.removesuffix("/matmul").removesuffix("/attention/packed")
        if node.name.endswith("/packed"):
            parts = [matrix(f"{prefix}.{part}_proj") for part in "qkv"]
            expected = np.concatenate(parts, axis=1)
        else:
            expected = matrix(prefix)
        found = by_blocks(*(made[name] for name in node.input[1:]))
        np.testing.assert_array_equal(found, expected)
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        assert (attributes["K"], attributes["N"]) == expected.shape
        assert attributes["accuracy_level"] == 4


def test_an_odd_number_of_outputs_in_4_bits(tmp_path: Path) -> None:
    """Two of the source's values share a byte, also where a row ends between them."""
    from deepseek_serving.model_files.directories import write_json
    from deepseek_serving.model_files.graphs import write_graph
    from deepseek_serving.prepare.passes import Scaling, prepare_graph
    from deepseek_serving.prepare.precision import PRECISIONS

    config = {**HEADS, "head_dim": 16, "intermediate_size": 81}
    export(random_checkpoint(tmp_path / "checkpoint", **config), tmp_path / "graph")
    source = onnx.load(tmp_path / "graph" / "decoder.onnx", load_external_data=False)
    made = prepare_graph(
        source,
        tmp_path / "graph",
        PRECISIONS["int4"],
        block=16,
        max_len=64,
        largest={},
        scaling=Scaling(),
    )
    (tmp_path / "int4").mkdir()
    write_graph(tmp_path / "int4", "decoder.onnx", made.model, made.weights)
    write_json(tmp_path / "int4" / RECORD_FILE, {})
    weights = {n: m() for n, m in for_the_processor(tmp_path / "int4" / "decoder.onnx").weights}
    name = "model.layers.0.mlp.gate_proj.weight"
    values = stored(tmp_path / "int4", name).astype(np.float32)
    scale = np.repeat(stored(tmp_path / "int4", f"{name}/scale").astype(np.float32), 16, axis=0)
    found = by_blocks(weights[f"{name}/steps"], weights[f"{name}/scales"])
    assert found.shape == (64, 81)
    np.testing.assert_array_equal(found, values * scale)


def test_a_table_stays_as_short_as_it_is(prepared: dict[str, Path]) -> None:
    """Its rows are converted when they are read; the head, where it is the table, has its own."""
    model = for_the_processor(prepared["fp16"] / "decoder.onnx").model
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    (gather,) = [node for node in model.graph.node if node.name == "embedded"]
    assert types[gather.input[0]] == onnx.TensorProto.FLOAT16
    others = {name for node in model.graph.node if node is not gather for name in node.input}
    assert onnx.TensorProto.FLOAT16 not in {types[name] for name in others & set(types)}
