"""What a checkpoint's config.json says, for the architectures that can be exported.

An architecture is a function from config.json to a `Decoder` or an `Encoder`; the graph is built
from that alone. Another one of the same family is added to the table here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.config import Config, flag, one_of, real, whole
from deepseek_serving.export.rope import Rope, read_rope


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
    rope: Rope
    max_positions: int
    tied_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True)
class Encoder:
    """A bidirectional transformer of the BERT family: learned positions, layer norms, GELU.

    `first_position`: the row of the table of positions that a text's first token has; RoBERTa and
    its kin keep the rows before it for padding. `head`: what makes one score of the first token's
    state, in those that judge pairs of texts: BERT's pooler and a linear layer, or RoBERTa's two.
    """

    architecture: str
    vocabulary: int
    token_types: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    norm_epsilon: float
    max_positions: int
    first_position: int = 0
    prefix: str = ""
    head: Literal["bert", "roberta"] | None = None

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def longest(self) -> int:
        """The longest text, in tokens."""
        return self.max_positions - self.first_position


def _refuse_quantised(config: Config) -> None:
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
        raise CheckpointError(
            f"config.json: quantization_config ({method or 'of no named method'}) is not "
            "supported; use the checkpoint in bfloat16, float16 or float32"
        )


def _refuse_sliding_window(config: Config, layers: int) -> None:
    """Published configs name a window that no layer uses; one that is used is refused."""
    kinds = config.get("layer_types")
    if kinds is None:
        window = flag(config, "use_sliding_window") and config.get("sliding_window", 1) is not None
        full = config.get("max_window_layers", 0)
        used = window and not (isinstance(full, int) and full >= layers)
    else:
        used = not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    if used:
        raise CheckpointError(
            "config.json: sliding_window is used by some layers (use_sliding_window, layer_types) "
            "and is not supported; full attention only"
        )


def _decoder(name: str, config: Config, **features: bool) -> Decoder:
    """What the families have in common; `features` are those of this one."""
    _refuse_quantised(config)
    one_of(config, "hidden_act", "silu")
    hidden, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    kv_heads = whole(config, "num_key_value_heads", heads)
    head_dim = whole(config, "head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError(
            f"config.json: {heads} heads cannot share {kv_heads} key/value heads of {head_dim}"
        )
    layers = whole(config, "num_hidden_layers")
    _refuse_sliding_window(config, layers)
    max_positions = whole(config, "max_position_embeddings")
    return Decoder(
        architecture=name,
        vocabulary=whole(config, "vocab_size"),
        hidden=hidden,
        intermediate=whole(config, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_epsilon=real(config, "rms_norm_eps"),
        rope=read_rope(config, head_dim, max_positions),
        max_positions=max_positions,
        tied_embeddings=flag(config, "tie_word_embeddings"),
        **features,
    )


def _llama(config: Config) -> Decoder:
    bias = flag(config, "attention_bias")
    return _decoder(
        "LlamaForCausalLM",
        config,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(config, "mlp_bias"),
    )


def _qwen2(config: Config) -> Decoder:
    whole(config, "num_key_value_heads")
    return _decoder("Qwen2ForCausalLM", config, qkv_bias=True)


def _qwen3(config: Config) -> Decoder:
    # not derived from the other sizes: the file must say them
    for key in ("head_dim", "num_key_value_heads"):
        whole(config, key)
    bias = flag(config, "attention_bias")
    return _decoder("Qwen3ForCausalLM", config, qkv_bias=bias, output_bias=bias, qk_norm=True)


def _encoder(name: str, config: Config) -> Encoder:
    _refuse_quantised(config)
    one_of(config, "hidden_act", "gelu")
    one_of(config, "position_embedding_type", "absolute")
    if flag(config, "is_decoder") or flag(config, "add_cross_attention"):
        raise CheckpointError("config.json: is_decoder and add_cross_attention are not supported")
    hidden, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    if hidden % heads:
        raise CheckpointError(f"config.json: {heads} heads cannot share {hidden} dimensions")
    return Encoder(
        architecture=name,
        vocabulary=whole(config, "vocab_size"),
        token_types=whole(config, "type_vocab_size"),
        hidden=hidden,
        intermediate=whole(config, "intermediate_size"),
        layers=whole(config, "num_hidden_layers"),
        heads=heads,
        norm_epsilon=real(config, "layer_norm_eps"),
        max_positions=whole(config, "max_position_embeddings"),
    )


def _bert(config: Config) -> Encoder:
    return _encoder("BertModel", config)


def _roberta(config: Config) -> Encoder:
    """RoBERTa and XLM-RoBERTa: positions are counted from behind that of padding."""
    encoder = _encoder("XLMRobertaModel", config)
    first = whole(config, "pad_token_id", 1) + 1
    if first >= encoder.max_positions:
        raise CheckpointError(
            f"config.json: pad_token_id {first - 1} leaves no position of "
            f"{encoder.max_positions} (max_position_embeddings) to a text"
        )
    return replace(encoder, first_position=first)


def _scored(config: Config) -> None:
    """One score for a pair: the heads of rerankers, not those that choose among classes."""
    labels = config.get("id2label", config.get("num_labels"))
    count = len(labels) if isinstance(labels, Mapping) else labels
    if count != 1:
        raise CheckpointError(
            f"config.json: a head with {count or 2} labels (id2label, num_labels) is not "
            "supported; supported: those with one, which is a pair's score"
        )


def _bert_scorer(config: Config) -> Encoder:
    _scored(config)
    name = "BertForSequenceClassification"
    return replace(_bert(config), architecture=name, prefix="bert.", head="bert")


def _roberta_scorer(config: Config) -> Encoder:
    _scored(config)
    name = "XLMRobertaForSequenceClassification"
    return replace(_roberta(config), architecture=name, prefix="roberta.", head="roberta")


ARCHITECTURES: Mapping[str, Callable[[Config], Decoder]] = {
    "LlamaForCausalLM": _llama,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
}
ENCODERS: Mapping[str, Callable[[Config], Encoder]] = {
    "BertModel": _bert,
    "XLMRobertaModel": _roberta,
}
# of pairs of texts
SCORERS: Mapping[str, Callable[[Config], Encoder]] = {
    "BertForSequenceClassification": _bert_scorer,
    "XLMRobertaForSequenceClassification": _roberta_scorer,
}


def _name(config: Config) -> str:
    names = config.get("architectures") or []
    if not isinstance(names, list) or len(names) > 1:
        raise CheckpointError(f"config.json: architectures must name one, it is {names!r}")
    return str(names[0]) if names else "not given"


def describe(config: Config) -> Decoder:
    """The decoder that config.json describes, or an error that names what is supported."""
    name = _name(config)
    if name in ENCODERS or name in SCORERS:
        raise CheckpointError(
            f"config.json: architecture {name} is a text encoder; export it with --encoder"
        )
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"config.json: architecture {name} is not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name](config)


def describe_encoder(config: Config) -> Encoder:
    """The text encoder that config.json describes, or an error that names what is supported."""
    name, supported = _name(config), {**ENCODERS, **SCORERS}
    if name not in supported:
        raise CheckpointError(
            f"config.json: architecture {name} is not supported as a text encoder; "
            f"supported: {', '.join(supported)}"
        )
    return supported[name](config)
