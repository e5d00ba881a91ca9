"""The engine of ONNX Runtime's CUDA provider, over a GPU in host memory."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_gpu import FakeGpu
from fake_provider import CPU, FakeProvider
from support import without_logits
from test_gpu_runtime import answers, best, prompts

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.fused import fused
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.runtime.onnxruntime_cuda import CudaEngine, padded

SLOTS, TOKENS = 3, 12


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    gpu.install(monkeypatch)
    return gpu


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> FakeProvider:
    provider = FakeProvider(gpu)
    provider.install(monkeypatch)
    return provider


@pytest.fixture
def half(prepared: dict[str, Path]) -> Path:
    return prepared["fp16"]


def edited(folder: Path, source: Path, **record: object) -> Path:
    """A copy of a graph with another record."""
    shutil.copytree(source, folder)
    path = folder / "export.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, **record}), encoding="utf-8")
    return folder


# --- answers --------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_graph_as_it_is(provider: FakeProvider, half: Path) -> None:
    """Also where chunks are not as wide as what they are filled up to."""
    engine = CudaEngine(half, slots=SLOTS)
    reference = OnnxRuntimeEngine(half, threads=1, slots=SLOTS)
    sequences = prompts(half, SLOTS)
    expected = answers(reference, sequences, chunk=1000)
    for chunk in (1, 5, 40):
        engine.reset()
        assert answers(engine, sequences, chunk) == expected
    assert np.abs(engine.logits() - reference.logits()).max() < 1e-2


def test_each_batch_size_is_a_cuda_graph_and_a_prefill_is_none(
    provider: FakeProvider, half: Path
) -> None:
    engine = CudaEngine(half, slots=SLOTS)
    sequences = prompts(half, SLOTS)
    engine.prefill(0, sequences[0], 0)
    # before the first step of all: each width, and each batch size
    assert provider.graphs == ["-1"] * 4 + ["1", "2", "3"] + ["-1"]
    for count in (1, 3, 2):
        provider.graphs.clear()
        answers(engine, sequences[:count], chunk=1000)
        assert provider.graphs == ["-1"] * count + [str(count)] * TOKENS
    assert provider.options["enable_cuda_graph"] == "1"


def test_a_slot_is_prefilled_between_the_steps_of_the_others(
    provider: FakeProvider, half: Path
) -> None:
    first, second, _third = prompts(half, SLOTS)

    def interleaved(engine: Engine) -> list[int]:
        tokens = best(engine.prefill(0, first, 0))
        for step, start in enumerate(range(0, len(second), 4)):
            candidates = engine.decode([tokens[-1], 7], [len(first) + step, start])
            tokens.append(best(candidates)[0])
            other = engine.prefill(1, second[start : start + 4], start)
        return [*tokens, *best(other)]

    reference = OnnxRuntimeEngine(half, threads=1, slots=SLOTS)
    assert interleaved(CudaEngine(half, slots=SLOTS)) == interleaved(reference)


def test_a_slot_is_cleared_and_no_other(provider: FakeProvider, half: Path) -> None:
    engine = CudaEngine(half, slots=2)
    for slot in range(2):
        engine.prefill(slot, [5, 6, 7], 0)
    size = engine.slot_bytes
    held = {m.address: ctypes.string_at(m.address + size, size) for m in engine.cache.values()}
    assert any(any(data) for data in held.values())
    engine.clear(0)
    for address, data in held.items():
        assert not any(ctypes.string_at(address, size))
        assert ctypes.string_at(address + size, size) == data


def test_the_last_places_of_the_cache_are_for_real_tokens(
    provider: FakeProvider, half: Path
) -> None:
    """A chunk there is not filled up, or it would be written behind the cache."""
    engine, reference = CudaEngine(half, slots=1), OnnxRuntimeEngine(half, threads=1, slots=1)
    tokens = np.random.default_rng(5).integers(0, 1024, 512).tolist()
    for start, end in ((0, 505), (505, 512)):
        found = best(engine.prefill(0, tokens[start:end], start))
        assert found == best(reference.prefill(0, tokens[start:end], start))


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1, 16), (16, 16), (17, 32), (65, 128), (128, 128), (129, 256), (300, 384)],
)
def test_chunks_have_few_widths(width: int, expected: int) -> None:
    assert padded(width) == expected


def test_a_graph_without_logits(provider: FakeProvider, half: Path, tmp_path: Path) -> None:
    engine = CudaEngine(without_logits(half, tmp_path / "graph"), slots=1)
    engine.prefill(0, [1, 2, 3], 0)
    with pytest.raises(EngineError, match=r"^the graph has no output logits$"):
        engine.logits()


def test_there_are_no_logits_before_the_first_step(provider: FakeProvider, half: Path) -> None:
    with pytest.raises(EngineError, match=r"^there are no logits before the first step$"):
        CudaEngine(half, slots=1).logits()


@pytest.mark.parametrize(
    ("tokens", "start", "message"),
    [
        ([1, 2], 511, "tokens at 511 to 512 do not fit into a cache of 512"),
        ([1, 2], -1, "tokens at -1 to 0 do not fit into a cache of 512"),
        ([1024], 0, "token ids 1024 to 1024 are not all in the vocabulary of 1024"),
    ],
)
def test_what_would_be_written_elsewhere_is_refused(
    provider: FakeProvider, half: Path, tokens: list[int], start: int, message: str
) -> None:
    with pytest.raises(EngineError, match=f"^{message}$"):
        CudaEngine(half, slots=1).prefill(0, tokens, start)


# --- the graph ------------------------------------------------------------------------------------


def test_every_source_gives_the_same_operators(graph: Path, half: Path) -> None:
    """The exported graph with its valid_lengths, and the prepared one with its mask."""

    def operators(folder: Path) -> list[str]:
        model = fused(onnx.load(folder / "decoder.onnx", load_external_data=False), 512).model
        names = [value.name for value in model.graph.input if "past" not in value.name]
        assert names == ["input_ids", "last_keys", "last_index"]
        return [node.op_type for node in model.graph.node if node.op_type != "Cast"]

    found = operators(graph)
    assert found == operators(half)
    assert found.count("GroupQueryAttention") == 4
    # all but the first and the last
    assert found.count("SkipSimplifiedLayerNormalization") == 7
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "Transpose"} & set(found)


def test_a_graph_of_another_make_is_refused_by_its_node(graph: Path) -> None:
    model = onnx.load(graph / "decoder.onnx", load_external_data=False)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attention.input[1] = "past_key.0"
    with pytest.raises(EngineError) as caught:
        fused(model, 512)
    assert str(caught.value) == (
        "node 'model.layers.0.self_attn/attention' (Attention): its input 'past_key.0' comes from "
        "outside, not from TensorScatter; the provider cuda runs decoders as deepseek-export and "
        "deepseek-prepare write them"
    )


# --- refusals -------------------------------------------------------------------------------------


def refusal(folder: Path, **changes: int) -> str:
    with pytest.raises(EngineError) as caught:
        CudaEngine(folder, **changes)
    return str(caught.value)


def test_an_onnx_runtime_without_the_provider(provider: FakeProvider, half: Path) -> None:
    provider.available = [CPU]
    assert "has no CUDA provider; install onnxruntime-gpu in place of onnxruntime" in refusal(half)


def test_a_provider_that_does_not_start(provider: FakeProvider, half: Path) -> None:
    provider.starts = False
    assert refusal(half).startswith(
        "engine.provider is cuda, and ONNX Runtime could not start its CUDA provider; its reason"
    )


def test_operators_that_would_run_on_the_processor_are_named(
    provider: FakeProvider, half: Path
) -> None:
    provider.without_kernels = frozenset({"TopK", "Sigmoid"})
    message = refusal(half)
    assert "has no CUDA kernels for Sigmoid (model.layers.0.mlp/sigmoid), Sigmoid (" in message
    assert "TopK (top), which would run on the processor; use the onnxruntime-gpu" in message


def test_a_host_without_a_gpu(gpu: FakeGpu, provider: FakeProvider, half: Path) -> None:
    gpu.count = 0
    assert refusal(half) == "there is no GPU 0; this host has 0, counted from 0"


def test_another_precision(provider: FakeProvider, graph: Path) -> None:
    assert refusal(graph) == (
        "engine.provider is cuda, and the graph is fp32; the CUDA provider runs fp16 and bf16: set "
        "model.precision to one that the release has"
    )


def test_a_gpu_without_room(gpu: FakeGpu, provider: FakeProvider, half: Path) -> None:
    weights = (half / "decoder.onnx.data").stat().st_size
    # two heads of 32 in two bytes, keys and values of four layers
    cache = SLOTS * 512 * 2 * 32 * 2 * 8
    gpu.free = weights + cache - 1
    assert refusal(half, slots=SLOTS) == (
        f"GPU 0 (NVIDIA A100-SXM4-80GB) has no room for the model: {weights + cache} bytes are "
        f"needed, {weights} for weights and {cache} for the KV cache of 3 slots of 512 tokens, "
        f"{weights + cache - 1} are free; lower engine.slots, prepare a graph with a smaller "
        "max_len, or free the GPU"
    )


def test_what_onnx_runtime_says_of_a_graph_it_does_not_load(
    provider: FakeProvider, half: Path
) -> None:
    provider.error = "Failed to allocate\nmemory"
    assert refusal(half) == (
        f"{half / 'decoder.onnx'}: the CUDA provider does not load it on GPU 0 "
        "(NVIDIA A100-SXM4-80GB): Failed to allocate memory"
    )


def test_a_longer_sequence_than_the_export(provider: FakeProvider, half: Path) -> None:
    assert refusal(half, max_len=513).startswith(
        "engine.max_len is 513, the graph was exported for at most 512; lower it"
    )
