"""The exported text encoder against transformers, and the directories that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import EncoderReference, random_checkpoint, save_random
from transformers import BertConfig, BertModel

from deepseek_serving.errors import CheckpointError
from deepseek_serving.export.cli import main
from deepseek_serving.export.exporter import export_encoder

TOLERANCE = 1e-4
MODULES = ("Transformer", "Pooling", "Normalize")
ODD = {
    "vocab_size": 101,
    "hidden_size": 39,
    "num_attention_heads": 3,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "type_vocab_size": 3,
}


def write_modules(folder: Path, *names: str) -> None:
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": "" if name == "Transformer" else f"{number}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for number, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def write_pooling(folder: Path, **config: Any) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")


def encoder_checkpoint(
    folder: Path,
    pooling: str = "mean_tokens",
    *,
    normalised: bool = True,
    dtype: str = "float32",
    **config: Any,
) -> Path:
    """A BERT encoder with random weights, in the layout of sentence-transformers."""
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "vocab_size": 131,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
    }
    model = BertModel(BertConfig(**{**sizes, **config}), add_pooling_layer=False)
    save_random(model, folder, dtype=dtype)
    write_modules(folder, *MODULES[: 3 if normalised else 2])
    flags = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens")}
    write_pooling(folder, word_embedding_dimension=48, pooling_mode_max_tokens=False, **flags)
    return folder


def batch(vocabulary: int, lengths: list[int], types: int = 2) -> dict[str, npt.NDArray[np.int64]]:
    random = np.random.default_rng(11)
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "input_ids": random.integers(1, vocabulary, shape) * mask,
        "attention_mask": mask,
        "token_type_ids": random.integers(0, types, shape) * mask,
    }


def run(folder: Path, inputs: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"]
    )
    states, embedding = session.run(["last_hidden_state", "embedding"], inputs)
    return states, embedding


def agree(folder: Path, checkpoint: Path, lengths: list[int]) -> npt.NDArray[Any]:
    """States equal transformers' wherever there is a token; the embedding is returned."""
    export_encoder(checkpoint, folder / "out")
    config = json.loads((checkpoint / "config.json").read_text())
    inputs = batch(config["vocab_size"], lengths, config["type_vocab_size"])
    expected = EncoderReference(checkpoint).states(**inputs)
    states, embedding = run(folder / "out", inputs)
    assert states.shape == expected.shape
    for row, length in enumerate(lengths):
        assert np.abs(states[row, :length] - expected[row, :length]).max() < TOLERANCE
    pooling = json.loads((folder / "out" / "export.json").read_text())["embedding"]
    for row, length in enumerate(lengths):
        tokens = expected[row, :length]
        wanted = tokens[0] if pooling["pooling"] == "cls" else tokens.mean(axis=0)
        if pooling["normalised"]:
            wanted = wanted / np.linalg.norm(wanted)
        assert np.abs(embedding[row] - wanted).max() < TOLERANCE
    return embedding


@pytest.mark.parametrize("config", [{}, ODD], ids=["plain", "odd-sizes"])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens"])
def test_states_and_embeddings_equal_transformers(
    tmp_path: Path, pooling: str, normalised: bool, config: dict[str, Any]
) -> None:
    checkpoint = encoder_checkpoint(
        tmp_path / "checkpoint", pooling, normalised=normalised, **config
    )
    embedding = agree(tmp_path, checkpoint, [7, 1, 40, 13])
    lengths = np.linalg.norm(embedding, axis=1)
    assert np.allclose(lengths, 1.0, atol=1e-5) == normalised


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions_equal_transformers(tmp_path: Path, dtype: str) -> None:
    agree(tmp_path, encoder_checkpoint(tmp_path / "checkpoint", dtype=dtype), [3, 9])


@settings(max_examples=10, derandomize=True)
@given(
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 17),
    wide=st.integers(1, 90),
    layers=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    pooling=st.sampled_from(["cls_token", "mean_tokens"]),
)
def test_any_shape_equals_transformers(
    tmp_path_factory: pytest.TempPathFactory,
    heads: int,
    head_dim: int,
    wide: int,
    layers: int,
    lengths: list[int],
    pooling: str,
) -> None:
    folder = tmp_path_factory.mktemp("shape")
    checkpoint = encoder_checkpoint(
        folder / "checkpoint",
        pooling,
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        intermediate_size=wide,
        num_hidden_layers=layers,
    )
    agree(folder, checkpoint, lengths)


def test_padding_and_company_change_nothing(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    export_encoder(checkpoint, tmp_path / "out")
    together = batch(131, [5, 40, 21])
    _states, embeddings = run(tmp_path / "out", together)
    for row, length in enumerate([5, 40, 21]):
        alone = {name: value[row : row + 1, :length] for name, value in together.items()}
        _states, embedding = run(tmp_path / "out", alone)
        assert np.abs(embedding[0] - embeddings[row]).max() < 1e-5


def test_a_text_without_tokens_gives_no_nan(tmp_path: Path) -> None:
    export_encoder(encoder_checkpoint(tmp_path / "checkpoint"), tmp_path / "out")
    nothing = {name: np.zeros((1, 4), dtype=np.int64) for name in batch(131, [4])}
    states, embedding = run(tmp_path / "out", nothing)
    assert np.isfinite(states).all()
    assert (embedding == 0).all()


def test_what_is_written(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (checkpoint / "config_sentence_transformers.json").write_text('{"prompts": {}}')
    assert main(["--encoder", str(checkpoint), str(tmp_path / "out")]) == 0
    assert main(["--encoder", str(checkpoint), str(tmp_path / "again")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "config.json",
        "config_sentence_transformers.json",
        "encoder.onnx",
        "encoder.onnx.data",
        "export.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["architecture"] == "BertModel"
    assert record["parameters"] == {"max_len": 24}
    assert record["embedding"] == {"size": 48, "pooling": "mean", "normalised": True}
    model = onnx.load(tmp_path / "out" / "encoder.onnx", load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    dynamic = [[d.dim_param for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert dynamic == [["batch", "sequence"]] * 3


def test_options_of_decoders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--encoder", "--slots", "2", str(tmp_path), str(tmp_path / "out")])
    assert "--max-len and --slots are for decoders" in capsys.readouterr().err


def refused(checkpoint: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        export_encoder(checkpoint, checkpoint.parent / "new" / "out")
    assert not (checkpoint.parent / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["ModernBertModel"]}, "ModernBertModel is not supported as a text enc"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported; supported: gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 5}, "5 heads cannot share 48"),
        ({"num_hidden_layers": 3}, r"no tensor 'encoder.layer.2."),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config \(awq\)"),
    ],
)
def test_unsupported_configs_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")
    refused(checkpoint, message)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling by pooling_mode_max_tokens is not supported"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling by pooling_mode_cls_token and pooling_mode_mean_tokens is not supported",
        ),
        ({}, "pooling by no mode"),
        ({"pooling_mode_cls_token": True, "include_prompt": False}, "include_prompt false"),
    ],
)
def test_unsupported_poolings_are_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    write_pooling(checkpoint, **config)
    refused(checkpoint, message)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["Transformer", "Pooling", "Dense"], "modules Transformer, Pooling, Dense are not"),
        (["Transformer"], "modules Transformer are not supported"),
        ([], r"modules \(none\) are not supported"),
        (["Pooling", "Transformer"], "modules Pooling, Transformer are not supported"),
    ],
)
def test_unsupported_modules_are_refused(tmp_path: Path, modules: list[str], message: str) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    write_modules(checkpoint, *modules)
    refused(checkpoint, message)


def test_missing_and_misplaced_files_are_named(tmp_path: Path) -> None:
    checkpoint = encoder_checkpoint(tmp_path / "checkpoint")
    path = checkpoint / "modules.json"
    modules = json.loads(path.read_text())
    for changed, message in (
        ([{**modules[0], "path": "0_Transformer"}, *modules[1:]], "Transformer must be in"),
        ([modules[0], {**modules[1], "path": "../1_Pooling"}], "is not a directory in this one"),
        ([{"path": ""}], "not a list of modules"),
        (3, "not a list of modules"),
    ):
        path.write_text(json.dumps(changed), encoding="utf-8")
        refused(checkpoint, message)
    path.unlink()
    refused(checkpoint, "modules.json: no such file")


def test_a_decoder_is_no_encoder(tmp_path: Path) -> None:
    refused(
        random_checkpoint(tmp_path / "checkpoint"),
        "Qwen2ForCausalLM is not supported as a text encoder; supported: BertModel",
    )
