"""What prepared graphs answer: in ONNX Runtime, as they are judged, and as golden answers."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from support import Texts, trained
from tokenizers import Tokenizer

from deepseek_serving.errors import EngineError
from deepseek_serving.prepare.corpus import read_corpus, windows
from deepseek_serving.prepare.emulation import at_every_position, in_fp32
from deepseek_serving.prepare.evaluation import Runner
from deepseek_serving.prepare.golden import Golden
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.tensors import read_model
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

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
