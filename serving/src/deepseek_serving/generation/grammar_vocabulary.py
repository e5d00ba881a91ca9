"""A tokenizer's tokens as grammars see them: those that are marks, and those that are text.

llguidance cuts a text that a grammar demands into tokens as the tokenizer does. Where such a text
holds what an added token stands for, `<think>` in a list of values for instance, it gets that
token, which is no text to its own parser, and ends in an error. So the added tokens have other
names here, which no text can hold: what a grammar has as text is made of ordinary tokens, and a
mark is asked for by its number.

It counts as marks what the tokenizer calls special, and whatever stands in angle brackets: the
latter are not special in the files of Qwen and DeepSeek.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

# a byte of the text, in the vocabularies of SentencePiece
BYTE = re.compile(r"^<0x[0-9A-Fa-f]{2}>$")


@dataclass(frozen=True)
class Vocabulary:
    """llguidance's tokenizer, and its marks by their numbers."""

    tokenizer: LLTokenizer
    marks: Mapping[int, str]

    def bytes(self, token: int) -> bytes:
        """The token's part of a text; it may be less than a character."""
        mark = self.marks.get(token)
        if mark is not None:
            return mark.encode("utf-8")
        return bytes(self.tokenizer.decode_bytes([token]))


def _is_mark(token: Mapping[str, Any]) -> bool:
    content = str(token["content"])
    bracketed = content.startswith("<") and content.endswith(">") and not BYTE.match(content)
    return bool(token.get("special")) or bracketed


def _rename(model: dict[str, Any], number: int, old: str, new: str) -> None:
    """Some vocabularies have the added tokens among the others, too."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict) and vocabulary.get(old) == number:
        del vocabulary[old]
        vocabulary[new] = number
    elif isinstance(vocabulary, list) and number < len(vocabulary):
        piece = vocabulary[number]
        if isinstance(piece, list) and piece and piece[0] == old:
            piece[0] = new
    if model.get("unk_token") == old:
        model["unk_token"] = new


def with_marks_renamed(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Give the marks in what tokenizer.json says names that nobody can know; what they were."""
    # texts come from clients
    nonce = secrets.token_hex(8)
    marks: dict[int, str] = {}
    for token in tokenizer.get("added_tokens") or []:
        if _is_mark(token):
            number, content = int(token["id"]), str(token["content"])
            name = f"<|{nonce} {number}|>"
            token.update(content=name, special=True, normalized=False)
            _rename(tokenizer["model"], number, content, name)
            marks[number] = content
    return marks


def open_vocabulary(path: Path, size: int, end_tokens: Sequence[int]) -> Vocabulary:
    """Raises ValueError, or what else llguidance does, for a file that it cannot read."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    # llguidance knows an end token that it is not told of by its name
    marks = with_marks_renamed(tokenizer) if end_tokens else {}
    text = json.dumps(tokenizer, ensure_ascii=False)
    return Vocabulary(LLTokenizer(text, n_vocab=size, eos_token=list(end_tokens) or None), marks)
