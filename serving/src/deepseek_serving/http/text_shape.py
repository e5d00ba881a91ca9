"""Answers as text completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepseek_serving.backends.answer import Chunk
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.sampling import Choice
from deepseek_serving.http.answers import CompletedAnswer
from deepseek_serving.http.shapes import LEAST_LOGPROB


class TextShape:
    """Answers as text completions."""

    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, service: Service, *, logprobs: bool, echoes: Sequence[str]) -> None:
        """`echoes`: what each choice's text begins with."""
        self._service = service
        self._logprobs = logprobs
        self._echoes = echoes
        # characters so far, by choice
        self._offsets: dict[int, int] = {}

    def _tokens(self, index: int, tokens: Sequence[Choice]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        texts, offsets = [], []
        offset = self._offsets.get(index, 0)
        for choice in tokens:
            texts.append(self._text(choice.token))
            offsets.append(offset)
            offset += len(texts[-1])
        self._offsets[index] = offset
        return {
            "tokens": texts,
            "token_logprobs": [max(c.logprob or 0.0, LEAST_LOGPROB) for c in tokens],
            "top_logprobs": [
                {self._text(top.token): max(top.logprob, LEAST_LOGPROB) for top in choice.top}
                for choice in tokens
            ],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self._service.grammars.token_bytes(token).decode("utf-8", "replace")

    def _choice(
        self, index: int, text: str, tokens: Sequence[Choice], finish: str | None
    ) -> dict[str, Any]:
        logprobs = self._tokens(index, tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        text = self._echoes[index] + answer.piece.content
        return self._choice(index, text, answer.tokens, finish)

    def begin(self, index: int) -> dict[str, Any] | None:
        echo = self._echoes[index]
        return self._choice(index, echo, (), None) if echo else None

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        return self._choice(index, chunk.piece.content, chunk.tokens, None)

    def end(self, index: int, finish: str) -> dict[str, Any]:
        return self._choice(index, "", (), finish)
