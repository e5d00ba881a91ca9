"""What the collection says before a rollout is what the exporter and deepseek-prepare say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CHECKPOINT

from deepseek_serving.checkpoint import precisions
from deepseek_serving.checkpoint.inspect import inspect
from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.architecture import ARCHITECTURES, ENCODERS, describe
from deepseek_serving.prepare.passes import SMALLEST_BLOCK
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options

BASE = {
    "head_dim": 8,
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-6,
    "vocab_size": 100,
}
LONG = {"factor": 2.0, "original_max_position_embeddings": 32}
SCALINGS: list[Any] = [
    None,
    {},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "yarn", **LONG},
    {"rope_type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4, **LONG},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "longrope"},
    {"rope_type": None},
    "yarn",
]
KINDS = ["full_attention", "sliding_attention"]
CHOICES: dict[str, list[Any]] = {
    "architectures": [
        *([name] for name in (*ARCHITECTURES, *ENCODERS, "DeepseekV3ForCausalLM")),
        None,
        [],
        list(ARCHITECTURES),
    ],
    "hidden_act": ["silu", "gelu"],
    "quantization_config": [None, {}, {"quant_method": "fp8"}, {"bits": 4}],
    "rope_scaling": SCALINGS,
    "rope_parameters": SCALINGS,
    "layer_types": [None, KINDS[:1] * 4, KINDS * 2, "full_attention"],
    "use_sliding_window": [None, False, True],
    "sliding_window": [None, 16],
    "max_window_layers": [0, 3, 4, 28],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("preflight") / "checkpoint"
    shutil.copytree(CHECKPOINT, copy)
    return copy


def refusal(config: dict[str, Any]) -> str:
    """What the exporter says, if it refuses."""
    try:
        describe(config)
    except CheckpointError as error:
        return str(error)
    return ""


@settings(max_examples=300)
@given(
    # few at a time, so that one refusal does not hide another's absence
    changes=st.lists(st.sampled_from(list(CHOICES)), unique=True, max_size=3).flatmap(
        lambda keys: st.fixed_dictionaries({key: st.sampled_from(CHOICES[key]) for key in keys})
    ),
    windowed=st.booleans(),
)
def test_both_refuse_the_same_configs(
    folder: Path, changes: dict[str, Any], windowed: bool
) -> None:
    window = {"use_sliding_window": True, "sliding_window": 16} if windowed else {}
    config = {**BASE, "architectures": ["LlamaForCausalLM"], **window, **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    problems = [str(problem) for problem in inspect(str(folder)).problems]
    assert bool(problems) == bool(refusal(config)), (problems, refusal(config))
    assert all(problem.startswith("config.json: ") for problem in problems)


def test_both_know_the_same_precisions() -> None:
    assert {name: p.activations for name, p in PRECISIONS.items()} == precisions.PREPARED
    assert precisions.SMALLEST_BLOCK == SMALLEST_BLOCK
    thresholds = {field.name for field in dataclasses.fields(Options)} & set(precisions.THRESHOLDS)
    assert thresholds == set(precisions.THRESHOLDS)
