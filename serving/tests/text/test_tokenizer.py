"""Sampling, stop strings, chat templates."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from deepseek_serving.errors import TokenizerError
from deepseek_serving.generation.constrained import Grammars
from deepseek_serving.text.template_environment import TemplateError
from deepseek_serving.text.tokenizer import ChatTokenizer, StopScanner


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_the_text_wherever_the_pieces_end(
    pieces: list[str], stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    shown = ""
    for piece in pieces:
        shown += scanner.push(piece)
    if not scanner.stopped:
        shown += scanner.finish()
        assert shown == "".join(pieces)
    assert not any(stop in shown for stop in stops)
    assert "".join(pieces).startswith(shown)


def test_text_that_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    scanner = StopScanner(["END"])
    assert scanner.push("some text") == "some text"
    assert scanner.push(" EN") == " "
    assert scanner.push("ter") == "ENter"
    assert scanner.push("END more") == ""
    assert scanner.stopped


@pytest.fixture
def folder(graph: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "graph"
    copy.mkdir()
    for path in graph.glob("*.json"):
        shutil.copy(path, copy)
    return copy


def set_template(folder: Path, template: str) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "chat_template": template}), encoding="utf-8")


@given(text=st.text(max_size=60))
def test_text_survives_tokens_one_by_one(graph: Path, text: str) -> None:
    """Characters of several bytes span tokens; none may be lost or cut."""
    tokenizer = ChatTokenizer(graph)
    # the role's marker and the content, as the template puts them
    tokens = tokenizer.prompt([{"role": "user", "content": text}])
    stream = tokenizer.stream()
    # the normal form of Unicode that this tokenizer gives every text
    expected = unicodedata.normalize("NFC", text)
    assert expected in "".join(stream.push(token) for token in tokens)


def test_a_template_is_confined(folder: Path) -> None:
    set_template(folder, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TemplateError, match="cannot render"):
        ChatTokenizer(folder).prompt([{"role": "user", "content": "x"}])
    set_template(folder, "{{ messages.append(1) }}")
    with pytest.raises(TemplateError):
        ChatTokenizer(folder).prompt([{"role": "user", "content": "x"}])


def test_a_template_as_the_distills_have_it(folder: Path) -> None:
    """Special tokens as objects, a namespace, and thoughts cut from earlier answers."""
    set_template(
        folder,
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{% set ns.system = m['content'] %}{% endif %}{% endfor %}"
        "{{ bos_token }}{{ ns.system }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ 'U:' + m['content'] }}{% endif %}"
        "{% if m['role'] == 'assistant' and m['content'] is not none %}"
        "{{ 'A:' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A:<think>' }}{% endif %}",
    )
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["bos_token"] = {"__type": "AddedToken", "content": "<|endoftext|>"}
    path.write_text(json.dumps(config), encoding="utf-8")
    tokenizer = ChatTokenizer(folder)
    tokens = tokenizer.prompt(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "hm</think>Yes."},
            {"role": "user", "content": "Two?"},
        ]
    )
    assert tokens[0] == 0
    assert tokens.count(2) == 1
    stream = tokenizer.stream()
    text = "".join(stream.push(token) for token in tokens)
    assert text == "Be brief.U:One?A:Yes.U:Two?A:<think>"


def test_a_tokenizer_that_grammars_cannot_use_is_named(folder: Path) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: llguidance cannot read it"):
        Grammars(folder, 2, {0})


def test_a_template_can_refuse(folder: Path) -> None:
    set_template(folder, "{{ raise_exception('no system prompts here') }}")
    with pytest.raises(TemplateError, match="no system prompts here"):
        ChatTokenizer(folder).prompt([{"role": "user", "content": "x"}])


def test_wrong_templates_are_named(folder: Path) -> None:
    set_template(folder, "{% if %}")
    with pytest.raises(TokenizerError, match="the chat template is wrong"):
        ChatTokenizer(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert ChatTokenizer(folder).prompt([{"role": "user", "content": "x"}])
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match="has a template"):
        ChatTokenizer(folder)
