"""What a checkpoint's config.json says, for the architectures that can be exported.

An architecture is a function from config.json to a `Decoder`; the graph is built from the `Decoder`
alone. Another one of the same family is added by describing it here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.errors import CheckpointError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Decoder:
    """A decoder-only transformer with rotary positions, RMS norms and a gated SiLU MLP."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_epsilon: float
    rope_theta: float
    max_positions: int
    tied_embeddings: bool
    qkv_bias: bool


def _number(config: Config, key: str, kind: type[int] | type[float]) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise CheckpointError(f"config.json: {key} must be a positive number, it is {value!r}")
    if kind is int and int(value) != value:
        raise CheckpointError(f"config.json: {key} must be a whole number, it is {value!r}")
    return kind(value)


def _rope_theta(config: Config) -> float:
    """Newer files keep it in rope_parameters, older ones beside rope_scaling."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"config.json: rotary scaling {kind!r} is not supported; supported: default (none)"
        )
    source = parameters if "rope_theta" in parameters else config
    return float(_number(source, "rope_theta", float))


def _qwen2(config: Config) -> Decoder:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise CheckpointError(
            f"config.json: hidden_act {activation!r} is not supported; supported: silu"
        )
    if config.get("use_sliding_window"):
        raise CheckpointError(
            "config.json: use_sliding_window is not supported; full attention only"
        )
    hidden, heads = _number(config, "hidden_size", int), _number(config, "num_attention_heads", int)
    kv_heads = _number(config, "num_key_value_heads", int)
    head_dim = _number(config, "head_dim", int) if config.get("head_dim") else hidden // heads
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError(
            f"config.json: {heads} heads cannot share {kv_heads} key/value heads of {head_dim}"
        )
    return Decoder(
        architecture="Qwen2ForCausalLM",
        vocabulary=_number(config, "vocab_size", int),
        hidden=hidden,
        intermediate=_number(config, "intermediate_size", int),
        layers=_number(config, "num_hidden_layers", int),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_epsilon=_number(config, "rms_norm_eps", float),
        rope_theta=_rope_theta(config),
        max_positions=_number(config, "max_position_embeddings", int),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=True,
    )


ARCHITECTURES: Mapping[str, Callable[[Config], Decoder]] = {"Qwen2ForCausalLM": _qwen2}


def read_config(folder: Path) -> Config:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a checkpoint folder is needed") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return config


def describe(config: Config) -> Decoder:
    """The decoder that config.json describes, or an error that names what is supported."""
    names = config.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name](config)
    raise CheckpointError(
        f"config.json: architecture {', '.join(map(str, names)) or 'not given'} is not supported; "
        f"supported: {', '.join(sorted(ARCHITECTURES))}"
    )
