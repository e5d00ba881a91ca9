"""Texts to calibrate and to judge with: how they are read, divided, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from deepseek_serving.errors import PrepareError
from deepseek_serving.prepare.corpus import read_corpus, windows
from deepseek_serving.prepare.preparer import Options, prepare


def test_plain_and_json_lines_are_the_same_text(graph: Path, tmp_path: Path) -> None:
    documents = ["One host.", "Two hosts,  and\ta third.", '"Quoted" text']
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\n\n".join(documents), encoding="utf-8")
    first, *others = documents
    objects = [json.dumps(first), *(json.dumps({"text": text, "n": 1}) for text in others)]
    lines.write_text("\n".join(objects) + "\n", encoding="utf-8")
    assert read_corpus(plain).documents == read_corpus(lines).documents == tuple(documents)
    assert read_corpus(plain).sha256 != read_corpus(lines).sha256


def test_windows_are_bounded_and_lose_nothing(graph: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    path = tmp_path / "a.txt"
    path.write_text("The lab has six hosts: one gateway and others. " * 9 + "\nA b c d.\n")
    corpus = read_corpus(path)
    expected = [tokenizer.encode(document).ids for document in corpus.documents]
    found = windows(corpus, tokenizer, length=7, limit=10**6)
    assert max(len(sequence) for sequence in found.sequences) == 7
    joined = [token for sequence in found.sequences for token in sequence]
    # a last window of one token predicts nothing
    assert len(joined) >= sum(map(len, expected)) - 2
    assert joined[: len(expected[0]) - 1] == expected[0][: len(expected[0]) - 1]
    few = windows(corpus, tokenizer, length=7, limit=20)
    assert (few.tokens, few.documents) == (20, 1)


def test_a_first_token_is_not_given_twice(graph: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    path = tmp_path / "a.txt"
    path.write_text("<|im_start|>user\nuser asks\n", encoding="utf-8")
    found = windows(read_corpus(path), tokenizer, length=64, limit=100)
    assert [sequence[:2].count(1) for sequence in found.sequences] == [1, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no text in it"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'"fine"\n{"text": 3}\n', "line 2: neither a string nor an object"),
        ("a.jsonl", b"plain\n", "line 1: not JSON"),
        ("a.txt", b"a\n", "no document of at least two tokens"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(
    graph: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepareError, match=message):
        prepare(graph, tmp_path / "out", Options("fp16", tmp_path / name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_a_line_feed_ends_a_text(tmp_path: Path, newline: str, mark: str) -> None:
    texts = ("one\u2028still one\u0085and\u2029on", "two\x0b\x0c\x1c\x1d\x1e two", "a\rb")
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_bytes((mark + newline.join(texts) + newline).encode())
    assert read_corpus(plain).documents == texts
    # legal JSON: these need no escape
    written = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    lines.write_bytes((mark + newline.join(written)).encode())
    assert read_corpus(lines).documents == texts


def test_a_text_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(PrepareError, match="line 1: not JSON"):
        read_corpus(tmp_path / "a.jsonl")
