"""From a rendered conversation to tokens: marks of the template are tokens, those of a client text.

Where a client has written no mark, the whole text is encoded at once, as transformers does it, and
gives the same tokens. Otherwise the stretches between the template's marks that hold one of the
client's are read by a tokenizer that has no added tokens.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer

from deepseek_serving.text.client_text import ClientText, is_mark
from deepseek_serving.text.slices import SlicedTokenizer, TooManyTokensError

# How much of a text is searched before others may go on.
WINDOW = 2**16


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation; in `marked` a client's characters are marked, one for one."""

    text: str
    marked: str
    # whether the reply begins within thoughts
    in_thoughts: bool = False


@dataclass(frozen=True)
class _Stretch:
    """A part of a prompt, and where marks that a client has written begin in it."""

    text: str
    client_marks: Sequence[int] = ()


def _pattern(words: Iterable[str]) -> str:
    """A regular expression for the longest of the words, which share their beginnings."""
    following: dict[str, list[str]] = {}
    ends = False
    for word in words:
        if word:
            following.setdefault(word[0], []).append(word[1:])
        else:
            ends = True
    if not following:
        return ""
    branches = [re.escape(first) + _pattern(rest) for first, rest in following.items()]
    if len(branches) == 1 and not ends:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if ends else "")


class PromptEncoder:
    """Encodes prompts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, sliced: SlicedTokenizer) -> None:
        self._sliced = sliced
        added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        marks = {n: text for n, token in added.items() if is_mark(text := str(token.content))}
        self.client = ClientText(marks.values())
        self._marks = frozenset(marks)
        self._longest = max(map(len, marks.values()), default=0)
        self._mark = re.compile(_pattern(marks.values()) or "(?!)")
        # shares the model, so it costs nothing
        bare = Tokenizer(tokenizer.model)
        if tokenizer.normalizer is not None:
            bare.normalizer = tokenizer.normalizer
        if tokenizer.pre_tokenizer is not None:
            bare.pre_tokenizer = tokenizer.pre_tokenizer
        self._bare = SlicedTokenizer(bare)

    def encode(self, prompt: Prompt, *, most: int | None = None) -> list[int]:
        """Its tokens. Raises TooManyTokensError as soon as there are more than `most`."""
        if prompt.text is prompt.marked or prompt.text == prompt.marked:
            return self._sliced.encode(prompt.text, special=False, most=most)
        return self._encode(self._stretches(prompt), most)

    def data(self, text: str, *, special: bool = False, most: int | None = None) -> list[int]:
        """The tokens of a text in which no mark is a token."""
        found = [match.start() for match in self._matches(text)]
        if not found:
            return self._sliced.encode(text, special=special, most=most)
        before, after = (special and self._sliced.around) or ([], [])
        room = None if most is None else most - len(before) - len(after)
        return [*before, *self._encode([_Stretch(text, found)], room), *after]

    def _encode(self, stretches: Iterable[_Stretch], most: int | None) -> list[int]:
        tokens: list[int] = []
        for stretch in stretches:
            room = None if most is None else most - len(tokens)
            try:
                tokens += self._tokens(stretch, room)
            except TooManyTokensError as error:
                raise TooManyTokensError(len(tokens) + error.least) from error
        return tokens

    def _tokens(self, stretch: _Stretch, most: int | None) -> list[int]:
        if not stretch.client_marks:
            return self._sliced.encode(stretch.text, special=False, most=most)
        tokens = self._bare.encode(stretch.text, special=False, most=most)
        if self._marks.isdisjoint(tokens):
            return tokens
        # a model that has marks as words: they are cut behind their first characters
        cuts = [0, *(place + 1 for place in stretch.client_marks), len(stretch.text)]
        parts = [stretch.text[begin:end] for begin, end in itertools.pairwise(cuts)]
        return [token for part in parts for token in self._bare.encode(part, special=False)]

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        """Marks in a text, looked for in pieces, so that others may go on."""
        begin = 0
        while begin < len(text):
            end = begin + WINDOW
            found = self._mark.search(text, begin, end + self._longest)
            if found is None or found.start() >= end:
                begin = end
                continue
            yield found
            begin = found.end()

    def _stretches(self, prompt: Prompt) -> Iterator[_Stretch]:
        """The prompt in parts; those with marks of a client reach from mark to mark."""
        begin = plain_to = 0
        client_marks: list[int] = []
        for found in self._matches(prompt.text):
            start, end = found.span()
            edges = prompt.marked[start], prompt.marked[end - 1]
            if any(map(self.client.is_marked, edges)):
                client_marks.append(start)
                continue
            if client_marks:
                yield _Stretch(prompt.text[begin:plain_to])
                yield _Stretch(
                    prompt.text[plain_to:start], [mark - plain_to for mark in client_marks]
                )
                begin, client_marks = start, []
            plain_to = end
        if client_marks:
            yield _Stretch(prompt.text[begin:plain_to])
            yield _Stretch(prompt.text[plain_to:], [mark - plain_to for mark in client_marks])
        else:
            yield _Stretch(prompt.text[begin:])
