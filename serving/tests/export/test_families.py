"""Every architecture against transformers: logits and greedy tokens, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import FAMILIES, Reference, random_checkpoint

from deepseek_serving.export.architecture import ARCHITECTURES
from deepseek_serving.export.exporter import export
from deepseek_serving.export.graph import TOP
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine

TOLERANCE = 1e-3
CHUNK = 4
PROMPTS = (5, 17, 11)
STEPS = 64

# so that of the few pairs of a small head some are kept, some slowed, and some in between
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
ODD: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 51,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 10,
}
EVERY: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "no-grouping": {"num_key_value_heads": 6},
    "one-kv-head": {"num_key_value_heads": 1, "rope_theta": 1e6},
    "own-head-dim": {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2},
    "odd-sizes": ODD,
    "fewer-tokens-than-candidates": {"vocab_size": 40},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
}
SOME: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaForCausalLM", "attention-bias", {"attention_bias": True}),
    ("LlamaForCausalLM", "mlp-bias", {"mlp_bias": True, **ODD}),
    ("Qwen3ForCausalLM", "attention-bias", {"attention_bias": True, **ODD}),
    (
        "Qwen3ForCausalLM",
        "yarn-attention-factor",
        {"rope_parameters": {**YARN, "attention_factor": 0.9, "truncate": False}},
    ),
    (
        "LlamaForCausalLM",
        "yarn-mscale",
        {
            "rope_parameters": {
                **YARN,
                "mscale": 0.7,
                "mscale_all_dim": 1.3,
                "beta_fast": 8,
                "beta_slow": 2,
            }
        },
    ),
]
CASES = [
    *((family, name, config) for family in FAMILIES for name, config in EVERY.items()),
    *SOME,
]


def agree(folder: Path, checkpoint: Path) -> None:
    """A batch of unequal prompts, read in chunks, then decoded greedily, each step compared."""
    export(checkpoint, folder / "out")
    reference = Reference(checkpoint)
    engine = OnnxRuntimeEngine(folder / "out", threads=1)
    vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    random = np.random.default_rng(3)
    sequences: list[list[int]] = [random.integers(0, vocabulary, n).tolist() for n in PROMPTS]
    found: list[dict[int, np.ndarray[Any, Any]]] = [{} for _sequence in sequences]
    for slot, tokens in enumerate(sequences):
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            candidates = engine.prefill(slot, chunk, start)
            found[slot][start + len(chunk) - 1] = engine.logits()[0].copy()
        tokens.append(int(candidates.tokens[0, 0]))
    for _step in range(STEPS - 1):
        lengths = [len(tokens) - 1 for tokens in sequences]
        candidates = engine.decode([tokens[-1] for tokens in sequences], lengths)
        for slot, tokens in enumerate(sequences):
            found[slot][lengths[slot]] = engine.logits()[slot].copy()
            tokens.append(int(candidates.tokens[slot, 0]))
    assert candidates.values.shape == (len(PROMPTS), min(TOP, vocabulary))
    for prompt, tokens, logits in zip(PROMPTS, sequences, found, strict=True):
        expected = reference.logits(tokens[:-1])
        assert len(tokens) == prompt + STEPS
        for position, values in logits.items():
            difference = np.abs(values - expected[position]).max()
            assert difference < TOLERANCE, f"position {position}"
        # every token is the best one after those before it: what greedy decoding would have given
        assert tokens[prompt:] == expected[prompt - 1 :].argmax(axis=1).tolist()


def test_every_supported_architecture_is_compared() -> None:
    assert list(FAMILIES) == list(ARCHITECTURES)


@pytest.mark.parametrize(
    ("family", "config"),
    [(family, config) for family, _name, config in CASES],
    ids=[f"{family.removesuffix('ForCausalLM')}-{name}" for family, name, _config in CASES],
)
def test_random_models_equal_transformers(
    tmp_path: Path, family: str, config: dict[str, Any]
) -> None:
    agree(tmp_path, random_checkpoint(tmp_path / "checkpoint", family, **config))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_precision_and_shards_equal_transformers(
    tmp_path: Path, family: str, dtype: str
) -> None:
    checkpoint = random_checkpoint(
        tmp_path / "checkpoint", family, shard_size="20KB", dtype=dtype, **ODD
    )
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2
    agree(tmp_path, checkpoint)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    config = {
        "vocab_size": draw(st.integers(20, 150)),
        # transformers asks Llama for a multiple of the heads
        "hidden_size": heads * draw(st.integers(3, 13)),
        "intermediate_size": draw(st.integers(1, 70)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 12)),
        "tie_word_embeddings": draw(st.booleans()),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "rope_parameters": draw(
            st.sampled_from([LLAMA3, YARN, {"rope_type": "default", "rope_theta": 1e4}])
        ),
    }
    family = draw(st.sampled_from(list(FAMILIES)))
    if family != "Qwen2ForCausalLM":
        config["attention_bias"] = draw(st.booleans())
    if family == "LlamaForCausalLM":
        config["mlp_bias"] = draw(st.booleans())
    return family, config


@settings(
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(shape=shapes())
def test_any_shape_equals_transformers(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[str, dict[str, Any]]
) -> None:
    family, config = shape
    folder = tmp_path_factory.mktemp("shape")
    agree(folder, random_checkpoint(folder / "checkpoint", family, **config))


@pytest.mark.parametrize("family", FAMILIES)
def test_standard_operators_of_opset_24_only(tmp_path: Path, family: str) -> None:
    export(random_checkpoint(tmp_path / "checkpoint", family), tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "decoder.onnx", load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {node.op_type for node in model.graph.node}
    assert {"Attention", "TensorScatter", "RotaryEmbedding", "RMSNormalization"} <= kinds
    outputs = [output.name for output in model.graph.output]
    assert outputs[:3] == ["top_values", "top_indices", "logits"]
