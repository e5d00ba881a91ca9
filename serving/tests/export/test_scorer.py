"""Exported cross-encoders against transformers, and the checkpoints that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from reference import cross_encoder, save_random
from test_encoder import write_modules, write_pooling
from transformers import (
    AutoModelForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from deepseek_serving.errors import CheckpointError, EngineError
from deepseek_serving.export.exporter import export_encoder
from deepseek_serving.runtime import Pair
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder, OnnxRuntimeScorer

TOLERANCE = 1e-4
PAIRS = [
    Pair([5, 9, 12, 7], [0, 0, 1, 1]),
    Pair([5], [0]),
    Pair(list(range(2, 38)), [0] * 10 + [1] * 26),
]


def expected(checkpoint: Path, pairs: list[Pair]) -> npt.NDArray[np.float32]:
    """One pair at a time, so without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    with torch.inference_mode():
        return np.array(
            [
                model(
                    input_ids=torch.tensor([pair.tokens]),
                    token_type_ids=torch.tensor([pair.types]),
                ).logits.item()
                for pair in pairs
            ],
            dtype=np.float32,
        )


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_scores_equal_transformers_whatever_is_beside_them(tmp_path: Path, family: str) -> None:
    checkpoint = cross_encoder(tmp_path / "checkpoint", family)
    export_encoder(checkpoint, tmp_path / "out")
    scorer = OnnxRuntimeScorer(tmp_path / "out", threads=1)
    pairs = PAIRS
    if family == "roberta":
        # it has one type
        pairs = [Pair(pair.tokens, [0] * len(pair.tokens)) for pair in PAIRS]
    wanted = expected(checkpoint, pairs)
    assert np.ptp(wanted) > 0.01
    assert np.abs(scorer.score(pairs) - wanted).max() < TOLERANCE
    assert np.abs(scorer.score(pairs[:1]) - wanted[:1]).max() < TOLERANCE


def test_the_longest_pair_leaves_room_for_the_positions_of_padding(tmp_path: Path) -> None:
    """RoBERTa's table of positions has rows that no text uses."""
    checkpoint = cross_encoder(tmp_path / "checkpoint", "roberta", max_position_embeddings=40)
    export_encoder(checkpoint, tmp_path / "out")
    scorer = OnnxRuntimeScorer(tmp_path / "out", threads=1)
    assert scorer.max_len == 38
    longest = Pair(list(range(2, 40)), [0] * 38)
    wanted = expected(checkpoint, [longest])
    assert np.abs(scorer.score([longest]) - wanted).max() < TOLERANCE
    with pytest.raises(EngineError, match="39 tokens; the encoder reads 1 to 38"):
        scorer.score([Pair([2] * 39, [0] * 39)])


def test_an_xlm_roberta_encoder_makes_vectors(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=131,
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=80,
        num_hidden_layers=2,
        max_position_embeddings=42,
        type_vocab_size=1,
        initializer_range=0.2,
    )
    model = XLMRobertaModel(config, add_pooling_layer=False)
    save_random(model, checkpoint)
    write_modules(checkpoint, "Transformer", "Pooling", "Normalize")
    write_pooling(checkpoint, pooling_mode_cls_token=True)
    export_encoder(checkpoint, tmp_path / "out")
    encoder = OnnxRuntimeEncoder(tmp_path / "out", threads=1)
    texts = [[0, 7, 9, 2], [0, *range(3, 41)]]
    model.eval()
    for text, vector in zip(texts, encoder.embed(texts), strict=True):
        with torch.inference_mode():
            state = model(input_ids=torch.tensor([text])).last_hidden_state[0, 0].numpy()
        assert np.abs(vector - state / np.linalg.norm(state)).max() < TOLERANCE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "a head with 2 labels"),
        ({"id2label": None}, "a head with 2 labels"),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
            "Tanh' of scores is not supported; supported: Sigmoid, Identity",
        ),
        ({"pad_token_id": 127}, "leaves no position"),
        ({"architectures": ["RobertaForSequenceClassification"]}, "not supported as a text encod"),
    ],
)
def test_other_heads_are_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    checkpoint = cross_encoder(tmp_path / "checkpoint", "roberta")
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says):
        export_encoder(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_record_says_how_scores_are_read(tmp_path: Path) -> None:
    checkpoint = cross_encoder(tmp_path / "checkpoint", "bert")
    path = checkpoint / "config.json"
    named = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    for number, (more, activation) in enumerate([({}, "sigmoid"), (named, "identity")]):
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
        export_encoder(checkpoint, tmp_path / str(number))
        record = json.loads((tmp_path / str(number) / "export.json").read_text())
        assert record["score"] == {"activation": activation}
        with pytest.raises(EngineError, match="not a text encoder that makes vectors"):
            OnnxRuntimeEncoder(tmp_path / str(number))
