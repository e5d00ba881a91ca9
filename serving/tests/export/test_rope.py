"""Rotary scaling against transformers, and what published configs say about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.architecture import describe
from deepseek_serving.export.rope import SCALINGS, read_rope

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from([name for name in SCALINGS if name != "default"]))
    found: dict[str, Any] = {"rope_type": kind, "factor": draw(number(1, 64))}
    found["rope_theta"] = draw(number(10, 1e7))
    if kind == "linear":
        return found
    found["original_max_position_embeddings"] = draw(st.integers(16, 40000))
    if kind == "llama3":
        low = draw(number(0.5, 4))
        found |= {"low_freq_factor": low, "high_freq_factor": low + draw(number(0.1, 8))}
        return found
    optional = {
        "attention_factor": number(0.1, 3),
        "beta_fast": st.integers(8, 64),
        "beta_slow": st.integers(1, 7),
        "mscale": number(0.1, 2),
        "mscale_all_dim": number(0.1, 2),
        "truncate": st.booleans(),
    }
    for name, values in optional.items():
        if draw(st.booleans()):
            found[name] = draw(values)
    return found


@settings(max_examples=300)
@given(asked=parameters(), pairs=st.integers(1, 64))
def test_any_scaling_equals_transformers(asked: dict[str, Any], pairs: int) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 2 * pairs}
    reference = LlamaConfig(**sizes, max_position_embeddings=65536, rope_parameters=dict(asked))
    frequencies, factor = ROPE_INIT_FUNCTIONS[asked["rope_type"]](reference, "cpu")
    rope = read_rope({"rope_parameters": asked}, 2 * pairs, 65536)
    assert rope.factor == pytest.approx(factor, rel=1e-6)
    np.testing.assert_allclose(rope.frequencies, frequencies.numpy(), rtol=2e-5)


def test_older_places_of_the_same_values_are_read() -> None:
    new = {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}
    old = {"rope_scaling": LLAMA3, "rope_theta": 5e5}
    renamed = {("type" if key == "rope_type" else key): value for key, value in LLAMA3.items()}
    older = {"rope_scaling": renamed, "rope_theta": 5e5}
    assert read_rope(new, 64, 131072) == read_rope(old, 64, 131072) == read_rope(older, 64, 131072)
    assert read_rope({}, 64, 2048) == read_rope({"rope_theta": 10000}, 64, 2048)


def test_the_attention_factor_of_r1_0528_qwen3_8b_cancels_the_one_of_yarn() -> None:
    """Its attn_factor is one over the factor that follows from the scale of 4."""
    decoder = describe(
        {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 131072,
            "max_window_layers": 36,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {
                "attn_factor": 0.8782488562869419,
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "rope_type": "yarn",
            },
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        }
    )
    assert decoder.rope.factor == pytest.approx(1.0, abs=1e-12)
    assert decoder.qk_norm
    assert not decoder.qkv_bias
    # the fastest pairs turn as without scaling, the slowest a quarter as fast
    plain = read_rope({"rope_theta": 1000000}, 128, 131072).frequencies
    assert decoder.rope.frequencies[0] == plain[0]
    assert decoder.rope.frequencies[-1] == pytest.approx(plain[-1] / 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"rope_type": "longrope"}}, "rotary scaling 'longrope' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "supported: default, linear, llama3,"),
        ({"rope_scaling": {"type": ["yarn"]}}, "rotary scaling .* is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "factor must be a positive number, it is None"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "it is '2'"),
        ({"rope_scaling": "linear"}, "no object"),
        ({"rope_scaling": {"mrope_section": [8, 8]}}, "'default' with mrope_section is not"),
        ({"rope_scaling": {**LLAMA3, "beta_fast": 3}}, "'llama3' with beta_fast is not supported"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}}, "must be above low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is not"),
        ({"rope_theta": 0.5}, "rope_theta must be above 1"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_rope(config, 64, 4096)
