"""Text to tokens in slices: the others go on meanwhile, and too long ones are not read to the end.

`Tokenizer.encode` holds the interpreter's lock all the time; the batch call does not. What it gives
back is freed with the lock held, so a slice must be small. Slices are cut where a word ends, and
only where the tokens on both sides are the same with and without the cut, so that the tokens of
all slices are those of the text. Where there is no such place (a megabyte without a space), the
text is cut anyway: its tokens still say the same, but may be one or two more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers import Tokenizer

SLICE = 16_384
# Where few tokens are wanted, a slice is shorter: about what they may stand for, and no less.
CHARACTERS_PER_TOKEN = 4
LEAST_SLICE = 2048
# How far before the end of a slice a place is looked for, and how often.
REACH = 4096
TRIES = 8
# So much on both sides of a cut is looked at; words are shorter.
AROUND = 256
# After a line's end, before a single space, before the marks that end Chinese sentences.
PLACE = re.compile(
    "(?<=\\S\n)(?=\\w)|(?<=\\w)(?= \\w)|(?<=\\w)(?=[\u3002\uff0c\uff1b\uff01\uff1f]\\w)"
)


class TooManyTokensError(ValueError):
    """A text has more tokens than are wanted."""

    def __init__(self, least: int) -> None:
        super().__init__(f"more than {least - 1} tokens")
        self.least = least


class SlicedTokenizer:
    """Tokens of texts of any length, counted on the way, by a tokenizer that is uncut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.around = self._added()

    def _added(self) -> tuple[list[int], list[int]] | None:
        """The special tokens that are put before and after a text; None if that cannot be told."""
        plain = list(self._tokenizer.encode("a", add_special_tokens=False).ids)
        whole = list(self._tokenizer.encode("a", add_special_tokens=True).ids)
        for place in range(len(whole) - len(plain) + 1):
            if plain and whole[place : place + len(plain)] == plain:
                return whole[:place], whole[place + len(plain) :]
        return None

    def encode(self, text: str, *, special: bool, most: int | None = None) -> list[int]:
        """The tokens of a text; `special`: with those that the tokenizer puts around it.

        Raises TooManyTokensError as soon as there are more than `most`. A text of a slice or less
        is read in one piece.
        """
        if len(text) <= SLICE or (special and self.around is None):
            tokens = self._encode(text, special=special)
            if most is not None and len(tokens) > most:
                raise TooManyTokensError(len(tokens))
            return tokens
        before, after = self.around if special and self.around else ([], [])
        tokens, room = [*before], None if most is None else most - len(after)
        size = SLICE if most is None else max(LEAST_SLICE, most * CHARACTERS_PER_TOKEN)
        for piece in self.pieces(text, min(size, SLICE)):
            tokens += self._encode(piece)
            if room is not None and len(tokens) > room:
                raise TooManyTokensError(len(tokens) + len(after))
        return tokens + after

    def beginning(self, text: str, most: int) -> list[int]:
        """The first tokens of a text, at most so many, without reading it to its end."""
        tokens: list[int] = []
        for piece in self.pieces(text, min(SLICE, max(LEAST_SLICE, most * CHARACTERS_PER_TOKEN))):
            tokens += self._encode(piece)
            if len(tokens) >= most:
                break
        return tokens[:most]

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        return list(encoding.ids)

    def pieces(self, text: str, size: int | None = None) -> Iterator[str]:
        """The text in slices of at most so many characters."""
        size = size or SLICE
        begin = 0
        while len(text) - begin > size:
            end = self._cut(text, begin, size)
            yield text[begin:end]
            begin = end
        yield text[begin:]

    def _cut(self, text: str, begin: int, size: int) -> int:
        """Where the slice ends that begins there."""
        end = begin + size
        reach = min(REACH, size // 2)
        places = [found.start() for found in PLACE.finditer(text, end - reach, end)]
        for place in places[: -TRIES - 1 : -1]:
            left, right = text[place - AROUND : place], text[place : place + AROUND]
            if self._encode(left + right) == self._encode(left) + self._encode(right):
                return place
        return end
