"""The TensorRT runtime over a device in host memory that runs the graph with ONNX Runtime."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, write_plan
from support import trained, without_logits
from test_encoder import encoder_checkpoint

from deepseek_serving.errors import EngineError
from deepseek_serving.export.exporter import export_encoder
from deepseek_serving.runtime import Candidates, Engine
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder, OnnxRuntimeEngine
from deepseek_serving.runtime.tensorrt_decoder import TensorRtEngine
from deepseek_serving.runtime.tensorrt_encoder import TensorRtEncoder
from deepseek_serving.text.tokenizer import ChatTokenizer

SLOTS, CHUNK = 3, 16
TOKENS = 12
PROFILES = [
    {"input_ids": [[1, 1], [SLOTS, 1], [SLOTS, 1]]},
    {"input_ids": [[1, 1], [1, CHUNK], [1, CHUNK]]},
]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    return gpu


def record(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return value


def decoder_plan(folder: Path, **changes: Any) -> bytes:
    profiles = changes.pop("profiles", PROFILES)
    fixed = {"max_len": record(folder)["parameters"]["max_len"]}
    return write_plan(folder / "decoder.onnx", profiles, **{"fixed": fixed, **changes})


def decoder(folder: Path, slots: int = SLOTS, **changes: Any) -> TensorRtEngine:
    plan = decoder_plan(folder, **changes)
    return TensorRtEngine(plan, record(folder), flavour="tensorrt", slots=slots)


def prompts(folder: Path, count: int) -> list[list[int]]:
    tokenizer = ChatTokenizer(folder)
    return [
        list(tokenizer.prompt([{"role": "user", "content": question}]))
        for question, _answer in trained()[:count]
    ]


def best(candidates: Candidates) -> list[int]:
    return [int(token) for token in candidates.tokens[:, 0]]


def answers(engine: Engine, sequences: Sequence[Sequence[int]], chunk: int) -> list[list[int]]:
    """Greedy, in one slot each: prefilled in chunks one after the other, decoded together."""
    found = []
    for slot, tokens in enumerate(sequences):
        for start in range(0, len(tokens), chunk):
            candidates = engine.prefill(slot, tokens[start : start + chunk], start)
        found.append(best(candidates))
    lengths = [len(tokens) for tokens in sequences]
    for step in range(TOKENS):
        last = [tokens[-1] for tokens in found]
        candidates = engine.decode(last, [length + step for length in lengths])
        for tokens, token in zip(found, best(candidates), strict=True):
            tokens.append(token)
    return found


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("integers", ["INT32", "INT64"])
def test_tokens_are_those_of_onnx_runtime(
    gpu: FakeGpu,
    graph: Path,
    prepared: dict[str, Path],
    precision: str,
    integers: str,
) -> None:
    """The prepared graph has no valid_lengths, and a cache of another type."""
    folder = {"fp32": graph, **prepared}[precision]
    sequences = prompts(folder, SLOTS)
    engine = decoder(folder, integers=integers)
    reference = OnnxRuntimeEngine(folder, threads=1, slots=SLOTS)
    expected = answers(reference, sequences, chunk=1000)
    # a chunk that the profile takes, and one that the engine has to cut
    for chunk in (5, 40):
        engine.reset()
        assert answers(engine, sequences, chunk) == expected
    assert np.abs(engine.logits() - reference.logits()).max() < 1e-2
    assert gpu.launches == 2 * TOKENS - 1


def test_fewer_sequences_than_slots_have_their_own_graph(gpu: FakeGpu, graph: Path) -> None:
    engine, reference = decoder(graph), OnnxRuntimeEngine(graph, threads=1, slots=SLOTS)
    sequences = prompts(graph, SLOTS)
    for count in (1, 3, 2, 3, 1):
        assert answers(engine, sequences[:count], CHUNK) == answers(
            reference, sequences[:count], CHUNK
        )
    # all decoding but the first step of each batch size
    assert gpu.launches == 5 * TOKENS - 3


def test_a_slot_is_prefilled_between_the_steps_of_the_others(gpu: FakeGpu, graph: Path) -> None:
    engine, reference = decoder(graph), OnnxRuntimeEngine(graph, threads=1, slots=SLOTS)
    first, second, _third = prompts(graph, SLOTS)

    def interleaved(engine: Engine) -> list[int]:
        tokens = best(engine.prefill(0, first, 0))
        for step, start in enumerate(range(0, len(second), 4)):
            # slot 1 takes part with a token that its prefill overwrites afterwards
            candidates = engine.decode([tokens[-1], 7], [len(first) + step, start])
            tokens.append(best(candidates)[0])
            other = engine.prefill(1, second[start : start + 4], start)
        return [*tokens, *best(other)]

    assert interleaved(engine) == interleaved(reference)


@pytest.mark.parametrize("why", ["capture", "context"])
def test_without_cuda_graphs_it_says_so_once(
    gpu: FakeGpu,
    graph: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    engine = decoder(graph)
    if why == "capture":
        gpu.capture = False
    else:
        monkeypatch.setattr(
            "fake_gpu.FakeContext.is_stream_capturable", lambda *_a: False, raising=False
        )
    reference = OnnxRuntimeEngine(graph, threads=1, slots=SLOTS)
    sequences = prompts(graph, SLOTS)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2, 3):
            assert answers(engine, sequences[:count], CHUNK) == answers(
                reference, sequences[:count], CHUNK
            )
    assert gpu.launches == 0
    said = [message for message in caplog.messages if "running without CUDA graphs" in message]
    assert len(said) == 1


def test_the_cache_is_updated_in_place(gpu: FakeGpu, graph: Path) -> None:
    engine = decoder(graph)
    cache = record(graph)["cache"]
    row = cache["kv_heads"] * record(graph)["parameters"]["max_len"] * cache["head_dim"] * 4
    assert list(gpu.sizes.values()).count(SLOTS * row) == 2 * cache["layers"]
    before = gpu.free
    answers(engine, prompts(graph, SLOTS), CHUNK)
    answers(engine, prompts(graph, 2), CHUNK)
    # everything was allocated at the start
    assert gpu.free == before


def test_a_slot_is_cleared_and_no_other(gpu: FakeGpu, graph: Path) -> None:
    engine = decoder(graph)
    for slot in range(2):
        engine.prefill(slot, [5, 6, 7], 0)
    size = engine._slot_bytes
    held = {m.address: ctypes.string_at(m.address + size, size) for m in engine._cache.values()}
    assert any(any(data) for data in held.values())
    engine.clear(0)
    for address, data in held.items():
        assert not any(ctypes.string_at(address, size))
        assert ctypes.string_at(address + size, size) == data


def test_memory_is_given_back(gpu: FakeGpu, graph: Path) -> None:
    before = gpu.free
    engine = decoder(graph)
    answers(engine, prompts(graph, 2), CHUNK)
    assert gpu.free < before
    del engine
    gc.collect()
    assert gpu.free == before
    assert not gpu.memory


def test_any_thread_may_call(gpu: FakeGpu, graph: Path) -> None:
    """CUDA's current device is a thread's own."""
    engine = decoder(graph)
    gpu.device = None
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(engine.prefill(0, [1, 2, 3], 0)))
    thread.start()
    thread.join()
    assert found
    assert gpu.device == 0


def test_a_plan_may_not_carry_code(gpu: FakeGpu, graph: Path) -> None:
    decoder(graph)
    assert gpu.host_code == [False]


def test_the_decoder_goes_first(gpu: FakeGpu, graph: Path, encoder: Path) -> None:
    decoder(graph)
    embedder(encoder)
    assert [stream.priority for stream in gpu.streams.values()] == [-5, 0]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.0 got"
            " compute 9.0, please rebuild.",
            "build the engine for this GPU",
        ),
        (
            "cannot run on this GPU, which has compute capability 9.0. Supported: 8.0 8.6",
            "build the engine for this GPU",
        ),
        (
            "Serialization assertion stdVersionRead == serializationVersion failed.",
            "build the engine with the TensorRT that is installed here",
        ),
        ("Requested amount of GPU memory could not be allocated", "free memory of the GPU"),
    ],
)
def test_what_tensorrt_says_is_passed_on(
    gpu: FakeGpu, graph: Path, message: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineError) as error, caplog.at_level(logging.WARNING):
        decoder(graph, error=message)
    assert str(error.value) == (
        "tensorrt 8.6.0 on GPU 0 (NVIDIA A100-SXM4-80GB) does not load this plan: "
        f"{message}; {remedy}"
    )
    assert caplog.messages == ["TensorRT: a warning before"]


def test_a_step_that_fails(gpu: FakeGpu, graph: Path) -> None:
    engine = decoder(graph, fails=True)
    with pytest.raises(EngineError, match="failed in a step: the step broke"):
        engine.prefill(0, [1, 2], 0)
    # what was said belongs to that error, not to the next one
    with pytest.raises(EngineError, match=r"failed in a step: the step broke$"):
        engine.decode([1], [0])


def test_a_plan_of_another_graph(gpu: FakeGpu, graph: Path) -> None:
    other = record(graph)
    other["cache"]["layers"] += 1
    other["cache"]["head_dim"] += 2
    other["cache"]["type"] = "float16"
    other["vocabulary"] += 1
    with pytest.raises(EngineError) as error:
        TensorRtEngine(decoder_plan(graph), other, flavour="tensorrt")
    message = str(error.value)
    for part in (
        "does not belong to the graph's export.json",
        "past_key.4 is missing",
        "present_value.4 is missing",
        "past_key.0 is FLOAT, not HALF",
        f"logits has the shape [-1, {other['vocabulary'] - 1}], not [-1, {other['vocabulary']}]",
        "build it again from this graph",
    ):
        assert part in message


def test_a_tensor_that_no_record_names(gpu: FakeGpu, graph: Path) -> None:
    other = record(graph)
    other["cache"]["layers"] -= 1
    with pytest.raises(EngineError, match=r"past_key\.3 is not in the record"):
        TensorRtEngine(decoder_plan(graph), other, flavour="tensorrt")


def test_a_cache_that_is_not_updated_in_place(gpu: FakeGpu, graph: Path) -> None:
    assert decoder(graph, aliased=True).slots == SLOTS
    with pytest.raises(EngineError, match=r"not update its cache in place: key\.0, value\.0"):
        decoder(graph, aliased=False)


def test_no_room_for_the_cache(gpu: FakeGpu, graph: Path) -> None:
    gpu.free = 1000
    cache, max_len = record(graph)["cache"], record(graph)["parameters"]["max_len"]
    size = SLOTS * cache["kv_heads"] * max_len * cache["head_dim"] * 4 * 2 * cache["layers"]
    with pytest.raises(EngineError, match="no room for the KV cache of 3 slots") as error:
        decoder(graph)
    assert f"{size} bytes are needed, 1000 are free; lower engine.slots" in str(error.value)
    # cache and logits fit, and nothing beside them
    gpu.free = size + SLOTS * record(graph)["vocabulary"] * 4 + 1000
    with pytest.raises(EngineError, match=r"the workspace of the decoder: 12345 bytes are needed"):
        decoder(graph)


def test_settings_that_do_not_fit_the_plan(gpu: FakeGpu, graph: Path) -> None:
    with pytest.raises(EngineError, match=r"engine\.slots is 4, the plan decodes 1 to 3"):
        decoder(graph, slots=4)
    longest = record(graph)["parameters"]["max_len"]
    with pytest.raises(EngineError, match=f"exported for at most {longest}"):
        TensorRtEngine(decoder_plan(graph), record(graph), flavour="tensorrt", max_len=longest + 1)
    with pytest.raises(EngineError, match="has 1 optimization profiles; a decoder needs two"):
        decoder(graph, profiles=[{"input_ids": [[1, 1], [1, 1], [1, 1]]}])
    wide = {"input_ids": [[1, 4], [1, 4], [1, 4]]}
    with pytest.raises(EngineError, match=r"the plan's prefill takes \[1, 4\] tokens at least"):
        decoder(graph, slots=1, profiles=[{"input_ids": [[1, 1], [1, 1], [1, 1]]}, wide])


def test_nothing_outside_the_cache_or_the_vocabulary_is_touched(gpu: FakeGpu, graph: Path) -> None:
    engine = TensorRtEngine(
        decoder_plan(graph), record(graph), flavour="tensorrt", slots=2, max_len=8
    )
    with pytest.raises(EngineError, match="tokens at 6 to 8 do not fit into a cache of 8"):
        engine.prefill(0, [1, 2, 3], 6)
    with pytest.raises(EngineError, match="tokens at 0 to 8 do not fit"):
        engine.decode([1, 1], [0, 8])
    with pytest.raises(EngineError, match="not all in the vocabulary"):
        engine.decode([record(graph)["vocabulary"]], [0])
    assert gpu.executions == 0


def test_logits_need_an_output_and_a_step(gpu: FakeGpu, graph: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no output logits"):
        decoder(without_logits(graph, tmp_path / "graph")).logits()
    engine = decoder(graph)
    with pytest.raises(EngineError, match="no logits before the first step"):
        engine.logits()
    candidates = engine.prefill(1, [1, 2, 3], 0)
    logits = engine.logits()
    assert logits.shape == (1, record(graph)["vocabulary"])
    assert logits[0].argmax() == candidates.tokens[0, 0]


def test_hosts_without_the_packages(
    gpu: FakeGpu, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.count = 0
    with pytest.raises(EngineError, match="there is no GPU 0; this host has 0"):
        decoder(graph)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r"cuda-bindings is not installed.*\[tensorrt\]"):
        decoder(graph)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be imported"):
        decoder(graph)


# --- encoders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "checkpoint").mkdir()
    # as long as several of the widths that texts are padded to
    checkpoint = encoder_checkpoint(folder / "checkpoint", max_position_embeddings=100)
    export_encoder(checkpoint, folder / "out")
    return folder / "out"


def embedder(folder: Path, streams: int = 1, **changes: Any) -> TensorRtEncoder:
    longest = record(folder)["parameters"]["max_len"]
    profile = {"input_ids": [[1, 1], [4, 32], [4, longest]]}
    plan = write_plan(folder / "encoder.onnx", [profile], **changes)
    return TensorRtEncoder(plan, record(folder), flavour="tensorrt", streams=streams)


def texts(lengths: Sequence[int], seed: int = 3) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, 131, length).tolist() for length in lengths]


@pytest.mark.parametrize("integers", ["INT32", "INT64"])
def test_embeddings_are_those_of_onnx_runtime(gpu: FakeGpu, encoder: Path, integers: str) -> None:
    ours, reference = embedder(encoder, integers=integers), OnnxRuntimeEncoder(encoder, threads=1)
    assert (ours.size, ours.max_len) == (reference.size, reference.max_len) == (48, 100)
    for lengths in ([1], [7, 3], [100, 1, 50], [5, 5, 5, 5, 40, 3, 99], [2], [7, 3], [7, 3]):
        batch = texts(lengths)
        found = ours.embed(batch)
        assert found.shape == (len(lengths), 48)
        assert np.abs(found - reference.embed(batch)).max() < 1e-5
    assert gpu.launches > 0
    assert ours.embed([]).shape == reference.embed([]).shape == (0, 48)


@pytest.mark.parametrize("kind", ["tensorrt", "onnxruntime"])
def test_texts_that_cannot_be_read(gpu: FakeGpu, encoder: Path, kind: str) -> None:
    ours = embedder(encoder) if kind == "tensorrt" else OnnxRuntimeEncoder(encoder)
    with pytest.raises(EngineError, match="text 1 is 101 tokens; the encoder reads 1 to 100"):
        ours.embed([[1], [1] * 101])
    with pytest.raises(EngineError, match="text 0 is 0 tokens"):
        ours.embed([[]])
    with pytest.raises(EngineError, match="text 1 has the token id 131, outside 0 to 130"):
        ours.embed([[1, 2], [3, 131], [4]])


def test_shapes_that_do_not_come_back_are_forgotten(
    gpu: FakeGpu, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepseek_serving.runtime.tensorrt_encoder.SHAPES", 2)
    ours, reference = embedder(encoder), OnnxRuntimeEncoder(encoder, threads=1)
    for length in (10, 50, 90, 10, 10, 50, 90, 90):
        batch = texts([length])
        assert np.abs(ours.embed(batch) - reference.embed(batch)).max() < 1e-5
    assert gpu.launches == 2


def test_threads_share_an_encoder(gpu: FakeGpu, encoder: Path) -> None:
    ours, reference = embedder(encoder, streams=2), OnnxRuntimeEncoder(encoder, threads=1)
    assert len(gpu.streams) == 2
    wrong: list[float] = []

    def work(seed: int) -> None:
        for turn in range(10):
            batch = texts([seed + 1, turn + 1], seed)
            wrong.append(float(np.abs(ours.embed(batch) - reference.embed(batch)).max()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 60
    assert max(wrong) < 1e-5


def test_a_decoder_is_no_encoder(gpu: FakeGpu, graph: Path) -> None:
    with pytest.raises(EngineError, match="not a graph of a text encoder"):
        TensorRtEncoder(decoder_plan(graph), record(graph), flavour="tensorrt")
    with pytest.raises(EngineError, match="not a text encoder"):
        OnnxRuntimeEncoder(graph)
