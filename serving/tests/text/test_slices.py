"""Tokens of slices are the tokens of the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CHECKPOINT
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from deepseek_serving.text import slices
from deepseek_serving.text.slices import SlicedTokenizer, TooManyTokensError

# of Llama 3, Qwen 2.5 and many others
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


def _shipped() -> Tokenizer:
    return _tokenizer()


def _llama() -> Tokenizer:
    tokenizer = _tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _prefixed() -> Tokenizer:
    """Each text by itself gets a space in front, so no cut leaves the tokens as they are."""
    tokenizer = _tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def _surrounded() -> Tokenizer:
    tokenizer = _tokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    return tokenizer


KINDS = {"shipped": _shipped, "llama": _llama, "surrounded": _surrounded}
WORDS = st.sampled_from(
    [
        "the",
        " release",
        " of",
        "\n",
        "\n\n",
        "  ",
        " ",
        "\t",
        "don't",
        " 123456",
        ".",
        ", ",
        "。",
        "发布",
        "<|im_start|>",
        "<|im_end|>",
        "user",
        "é",
        "\u0301",
        "\U0001f600",
        "\u2028",
        "\r\n",
        "x" * 50,
        "\0",
    ]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=8)), max_size=400).map("".join)


@pytest.fixture(autouse=True, scope="module")
def _short() -> object:
    """Slices as short as the texts that are made here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(slices, "SLICE", 400)
    patch.setattr(slices, "REACH", 250)
    yield
    patch.undo()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [False, True])
@settings(max_examples=60)
@given(text=TEXTS)
def test_slices_make_no_difference(kind: str, special: bool, text: str) -> None:
    tokenizer = KINDS[kind]()
    sliced = SlicedTokenizer(tokenizer)
    places = [len(piece) for piece in sliced.pieces(text)]
    tokens = sliced.encode(text, special=special)
    if all(length < slices.SLICE for length in places):
        # a word ended near the end of every slice
        assert tokens == tokenizer.encode(text, add_special_tokens=special).ids
    # the text is what it was, wherever it is cut
    whole = tokenizer.encode(text, add_special_tokens=special).ids
    assert tokenizer.decode(tokens) == tokenizer.decode(whole)


@given(text=TEXTS)
@settings(max_examples=60)
def test_the_slices_are_the_text(text: str) -> None:
    assert "".join(SlicedTokenizer(_shipped()).pieces(text)) == text


def test_words_are_cut_where_they_end() -> None:
    text = "The release is signed. " * 200
    pieces = list(SlicedTokenizer(_shipped()).pieces(text))
    assert len(pieces) > 10
    assert all(len(piece) < slices.SLICE for piece in pieces[:-1])


@pytest.mark.parametrize("most", [0, 1, 50, 500])
def test_no_more_is_read_than_is_wanted(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced = SlicedTokenizer(_shipped())
    read = 0
    whole = SlicedTokenizer._encode

    def counted(self: SlicedTokenizer, text: str, *, special: bool = False) -> list[int]:
        nonlocal read
        read += len(text)
        return whole(self, text, special=special)

    monkeypatch.setattr(SlicedTokenizer, "_encode", counted)
    with pytest.raises(TooManyTokensError) as caught:
        sliced.encode("word " * 100_000, special=False, most=most)
    assert caught.value.least > most
    assert read < 20_000


@pytest.mark.parametrize(("most", "longest"), [(100, 2048), (1000, 4000), (100_000, 16_384)])
def test_a_slice_is_no_longer_than_what_is_wanted(
    most: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE", 16_384)
    monkeypatch.setattr(slices, "REACH", 4096)
    lengths: list[int] = []
    encode = SlicedTokenizer._encode

    def noted(self: SlicedTokenizer, text: str, *, special: bool = False) -> list[int]:
        lengths.append(len(text))
        return encode(self, text, special=special)

    sliced = SlicedTokenizer(_shipped())
    monkeypatch.setattr(SlicedTokenizer, "_encode", noted)
    with pytest.raises(TooManyTokensError):
        sliced.encode("x" * 300_000, special=False, most=most)
    # one word: there is no place at which anything else would have to be looked at
    assert lengths == [longest] * (most // longest + 1)


def test_exactly_as_many_as_are_wanted() -> None:
    sliced = SlicedTokenizer(_surrounded())
    text = "The release is signed. " * 40
    tokens = sliced.encode(text, special=True)
    assert sliced.encode(text, special=True, most=len(tokens)) == tokens
    with pytest.raises(TooManyTokensError):
        sliced.encode(text, special=True, most=len(tokens) - 1)


def test_a_tokenizer_that_puts_a_space_before_each_text_says_the_same() -> None:
    tokenizer = _prefixed()
    text = "The release is signed. " * 40
    tokens = SlicedTokenizer(tokenizer).encode(text, special=False)
    # the space that each text gets is a token more, here and there, and no more than that
    assert len(tokens) - len(tokenizer.encode(text, add_special_tokens=False).ids) <= 4


def test_a_tokenizer_whose_special_tokens_cannot_be_told() -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sliced = SlicedTokenizer(tokenizer)
    assert sliced.encode("a b " * 400, special=True) == [0] * 800
