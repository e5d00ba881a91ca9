"""What generation_config.json asks for, and the tokens that end answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.generation_defaults import Defaults, ignored, read_defaults

TOKENS = {"</s>": 1, "<|im_end|>": 2}


def read(
    folder: Path,
    generation: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Defaults:
    files = {
        "generation_config.json": generation,
        "config.json": {"eos_token_id": 7} if config is None else config,
        "tokenizer_config.json": tokenizer,
    }
    for name, content in files.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return read_defaults(folder, TOKENS.get)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, Defaults()),
        ({}, Defaults()),
        ({"temperature": None, "top_k": None, "max_new_tokens": None}, Defaults()),
        ({"temperature": 0.6, "top_p": 0.95}, Defaults(temperature=0.6, top_p=0.95)),
        ({"temperature": 0}, Defaults(temperature=0.0)),
        ({"top_p": 0}, Defaults(top_p=0.0)),
        ({"top_p": 0.0, "min_p": 0.0}, Defaults(top_p=0.0)),
        ({"top_k": 20, "min_p": 0.05}, Defaults(top_k=20, min_p=0.05)),
        ({"top_k": 0}, Defaults()),
        ({"top_k": -1}, Defaults()),
        ({"repetition_penalty": 1.05}, Defaults(repetition_penalty=1.05)),
        ({"max_new_tokens": 2048}, Defaults(max_tokens=2048)),
        ({"do_sample": False, "temperature": 0.6}, Defaults(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.6}, Defaults(temperature=0.6)),
        # nothing is chosen by what the service does not read
        ({"max_length": 20, "num_beams": 4, "pad_token_id": "x"}, Defaults()),
    ],
)
def test_values_of_the_checkpoint_are_taken_and_zero_is_one(
    tmp_path: Path, generation: Mapping[str, Any] | None, expected: Defaults
) -> None:
    found = read(tmp_path, generation)
    assert found.end_tokens == {7}
    assert found == Defaults(**{**vars(expected), "end_tokens": frozenset({7})})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", True),
        ("temperature", "0.6"),
        ("temperature", [0.6]),
        ("temperature", 1e300),
        ("temperature", float("nan")),
        ("temperature", 10**400),
        ("top_p", 1.01),
        ("top_p", -1),
        ("top_p", {}),
        ("top_k", 20.0),
        ("top_k", -2),
        ("top_k", False),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1.1),
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("do_sample", "false"),
        ("do_sample", 0),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1, None]),
        ("eos_token_id", -1),
        ("eos_token_id", True),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(TokenizerError, match=rf"generation_config\.json: .*{name} is ") as error:
        read(tmp_path, {name: value})
    assert "must be" in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 400


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"temperature is -1.*top_p is 2.*do_sample is 1"):
        read(tmp_path, {"temperature": -1, "top_p": 2, "do_sample": 1})


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({"eos_token_id": 5}, {"eos_token_id": 6}, {"eos_token": "</s>"}, {5, 6, 1}),
        ({"eos_token_id": [5, 6]}, {}, None, {5, 6}),
        (None, {"eos_token_id": [0, 3]}, {"eos_token": None}, {0, 3}),
        ({}, {"text_config": {"eos_token_id": 4}}, None, {4}),
        ({}, {"eos_token_id": None, "text_config": None}, {"eos_token": "<|im_end|>"}, {2}),
        (None, {}, {"eos_token": {"content": "</s>", "lstrip": False}}, {1}),
        # what the tokenizer does not have ends nothing
        ({"eos_token_id": 5}, {}, {"eos_token": "<|absent|>"}, {5}),
        ({"eos_token_id": 0}, {}, None, {0}),
    ],
)
def test_whatever_any_file_calls_an_end_is_one(
    tmp_path: Path,
    generation: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    tokenizer: Mapping[str, Any] | None,
    expected: set[int],
) -> None:
    assert read(tmp_path, generation, config, tokenizer).end_tokens == expected


@pytest.mark.parametrize("tokenizer", [None, {}, {"eos_token": "<|absent|>"}])
def test_a_model_whose_answers_would_never_end_is_refused(
    tmp_path: Path, tokenizer: Mapping[str, Any] | None
) -> None:
    with pytest.raises(TokenizerError, match="answers would never end"):
        read(tmp_path, {"eos_token_id": []}, {}, tokenizer)


def test_what_is_not_heeded_is_said(tmp_path: Path) -> None:
    neutral = {"typical_p": 1.0, "num_beams": 1, "suppress_tokens": None, "epsilon_cutoff": 0.0}
    read(tmp_path, {**neutral, "max_length": 20, "transformers_version": "5.0"})
    assert ignored(tmp_path) == []
    read(tmp_path, {**neutral, "typical_p": 0.9, "no_repeat_ngram_size": 3})
    (warning,) = ignored(tmp_path)
    assert "generation_config.json: no_repeat_ngram_size, typical_p" in warning
