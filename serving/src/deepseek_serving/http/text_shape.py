"""Answers as text completions."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_serving.backends.answer import Chunk
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.http.answers import CompletedAnswer
from deepseek_serving.http.prompt_scores import prompt_logprobs
from deepseek_serving.http.shapes import LEAST_LOGPROB
from deepseek_serving.http.sliced_json import SLICE, Series


@dataclass(frozen=True)
class Echo:
    """What the text of a choice begins with, and the tokens that it was read as."""

    text: str = ""
    tokens: Sequence[int] = ()


@dataclass
class _Place:
    """Where the next token begins in the text of a choice, in characters.

    A token may end within a character: the next one then begins where that character does.
    """

    characters: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def passed(self, data: bytes) -> int:
        """Where `data` begins."""
        begin = self.characters
        self.characters += len(self._decoder.decode(data))
        return begin


class TextShape:
    """Answers as text completions."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(
        self,
        service: Service,
        *,
        logprobs: int | None,
        echoes: Sequence[Echo | None],
        prompt_logprobs: int | None = None,
    ) -> None:
        """`echoes`: what each choice's text begins with, None for nothing."""
        self._service = service
        self._logprobs = logprobs
        self._echoes = echoes
        self._prompt_logprobs = prompt_logprobs
        self._places: dict[int, _Place] = {}

    def _text(self, token: int) -> str:
        return self._service.grammars.token_bytes(token).decode("utf-8", "replace")

    def _top(self, choice: Choice) -> dict[str, float] | None:
        """The best ones and the token itself, by their texts; of two with the same the better."""
        if choice.logprob is None:
            return None
        found: dict[str, float] = {}
        best = [(entry.token, entry.logprob) for entry in choice.top[: self._logprobs]]
        for token, logprob in (*best, (choice.token, choice.logprob)):
            found.setdefault(self._text(token), max(logprob, LEAST_LOGPROB))
        return found

    def _said(self, index: int, token: int) -> int:
        """Where a token of the answer begins; special ones are not in the text."""
        special = self._service.tokenizer.is_special(token)
        data = b"" if special else self._service.grammars.token_bytes(token)
        return self._place(index).passed(data)

    def _read(self, index: int, token: int) -> int:
        """Where a token of the prompt begins; special ones may be in the text that was given."""
        echo, place = self._echoes[index] or Echo(), self._place(index)
        data = self._service.grammars.token_bytes(token)
        if self._service.tokenizer.is_special(token):
            text = data.decode("utf-8", "replace")
            data = data if echo.text.startswith(text, place.characters) else b""
        return min(place.passed(data), len(echo.text))

    def _place(self, index: int) -> _Place:
        echo = self._echoes[index]
        # without the tokens of the prompt, those of the answer begin after its text
        characters = 0 if echo is None or echo.tokens else len(echo.text)
        return self._places.setdefault(index, _Place(characters))

    def _listed(
        self, tokens: Callable[[], Iterable[Choice]], offset: Callable[[int], int]
    ) -> dict[str, Series[Choice]] | None:
        """Tokens in columns; each column goes through them by itself."""
        if self._logprobs is None:
            return None

        def logprob(choice: Choice) -> float | None:
            return None if choice.logprob is None else max(choice.logprob, LEAST_LOGPROB)

        return {
            "tokens": Series(tokens(), lambda choice: self._text(choice.token)),
            "token_logprobs": Series(tokens(), logprob),
            "top_logprobs": Series(tokens(), self._top),
            "text_offset": Series(tokens(), lambda choice: offset(choice.token)),
        }

    def _echoed(self, index: int, scores: PromptScores) -> Iterator[Choice]:
        """The tokens of the prompt; nothing comes before the first, which so has no probability."""
        echo = self._echoes[index]
        if echo is not None and self._logprobs is not None:
            yield Choice(echo.tokens[0])
            yield from scores

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        echo, scores = self._echoes[index] or Echo(), answer.scores
        said = [*answer.tokens, *answer.end]
        read = len(echo.tokens) if scores is not None and self._logprobs is not None else 0
        count = itertools.count()

        def tokens() -> Iterator[Choice]:
            if scores is not None:
                yield from self._echoed(index, scores)
            yield from said

        def offset(token: int) -> int:
            in_prompt = next(count) < read
            return self._read(index, token) if in_prompt else self._said(index, token)

        choice: dict[str, Any] = {
            "index": index,
            "text": echo.text + answer.piece.content,
            "logprobs": self._listed(tokens, offset),
            "finish_reason": finish,
        }
        if self._prompt_logprobs is not None and scores is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                self._service, scores, self._prompt_logprobs
            )
        return choice

    def beside(self, answers: Sequence[CompletedAnswer]) -> dict[str, Any]:
        return {}

    def _part(
        self, index: int, text: str, finish: str | None = None, logprobs: object = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def begin(self, index: int) -> dict[str, Any] | None:
        echo = self._echoes[index]
        if echo is None or not echo.text or self._logprobs is not None:
            # with log probabilities it comes when they are there
            return None
        return self._part(index, echo.text)

    def scored(self, index: int, scores: PromptScores) -> Iterator[dict[str, Any]]:
        """What a stream says of the prompt, in slices of its tokens."""
        echo = self._echoes[index] or Echo()
        tokens, begin, left = self._echoed(index, scores), 0, len(echo.tokens)
        while part := list(itertools.islice(tokens, SLICE)):
            left -= len(part)
            listed = self._short(part, lambda token: self._read(index, token))
            end = self._place(index).characters if left else len(echo.text)
            yield self._part(index, echo.text[begin:end], logprobs=listed)
            begin = end

    def _short(
        self, tokens: Sequence[Choice], offset: Callable[[int], int]
    ) -> dict[str, list[object]] | None:
        listed = self._listed(lambda: tokens, offset)
        if listed is None:
            return None
        return {name: series.whole() for name, series in listed.items()}

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        tokens = [*chunk.tokens, *chunk.end]
        listed = self._short(tokens, lambda token: self._said(index, token))
        return self._part(index, chunk.piece.content, logprobs=listed)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        return self._part(index, "", finish)
