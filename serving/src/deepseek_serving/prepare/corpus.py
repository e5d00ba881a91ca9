"""Texts to calibrate and to judge with: one document per line, as plain text or as JSON.

A line ends in a line feed, with or without a carriage return before it; nothing else ends one.
A line is JSON when the file's name ends in .jsonl or .json: a string, or an object with `text`.
What a chat model is asked belongs there as its chat template renders it, special tokens included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepseek_serving.errors import PrepareError

JSON_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class Corpus:
    """A file of documents, known by the hash of its bytes."""

    path: Path
    sha256: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Windows:
    """What is read of a corpus: token sequences of bounded length, from as many documents."""

    sequences: tuple[tuple[int, ...], ...]
    documents: int

    @property
    def tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


def read_corpus(path: Path) -> Corpus:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrepareError(
            f"{path}: {error.strerror}; name a file with one text per line"
        ) from error
    try:
        # by line feed alone: str.splitlines takes U+2028 and U+0085 for ends, which are text here
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise PrepareError(f"{path}: not UTF-8: {error}") from error
    documents = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            documents.append(_document(path, number, line.removesuffix("\r")))
    if not documents:
        raise PrepareError(f"{path}: no text in it; one document per line is needed")
    return Corpus(path, hashlib.sha256(data).hexdigest(), tuple(documents))


def _document(path: Path, number: int, line: str) -> str:
    if not path.name.endswith(JSON_SUFFIXES):
        return line
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{path}, line {number}: not JSON: {error}") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise PrepareError(
            f"{path}, line {number}: neither a string nor an object with a string `text`"
        )
    return text


def refuse_overlap(calibration: Corpus, held_out: Corpus) -> None:
    """A model must not be judged with what its scales were chosen from."""
    shared = set(calibration.documents) & set(held_out.documents)
    if shared:
        raise PrepareError(
            f"{held_out.path}: {len(shared)} of its documents are in {calibration.path} too, for "
            f"example {min(shared)[:60]!r}; hold out other texts than those calibrated with"
        )


def windows(corpus: Corpus, tokenizer: Tokenizer, *, length: int, limit: int) -> Windows:
    """Documents from the first on, in sequences of 2 to `length` tokens, up to `limit` tokens."""
    sequences: list[tuple[int, ...]] = []
    read = total = 0
    for document in corpus.documents:
        if total >= limit:
            break
        read += 1
        tokens = _tokens(document, tokenizer)[: limit - total]
        total += len(tokens)
        for start in range(0, len(tokens), length):
            sequence = tokens[start : start + length]
            if len(sequence) > 1:
                sequences.append(tuple(sequence))
    return Windows(tuple(sequences), read)


def _tokens(document: str, tokenizer: Tokenizer) -> Sequence[int]:
    encoded = tokenizer.encode(document)
    tokens: list[int] = encoded.ids
    # a rendered chat template begins with the token that the tokenizer puts first by itself
    added = encoded.special_tokens_mask[:1] == [1]
    twice = added and len(tokens) > 1 and tokens[0] == tokens[1]
    return tokens[1:] if twice else tokens
