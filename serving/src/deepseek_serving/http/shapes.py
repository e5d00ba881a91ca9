"""How answers are written: what every endpoint must say, and tokens with their probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from deepseek_serving.backends.answer import Chunk
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.probabilities import PromptScores
from deepseek_serving.http.answers import CompletedAnswer

# JSON has no minus infinity; OpenAI's own stand-in for it
LEAST_LOGPROB = -9999.0


class Shape(Protocol):
    """How one of the API's endpoints writes answers."""

    prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        """One of the choices."""

    def beside(self, answers: Sequence[CompletedAnswer]) -> dict[str, Any]:
        """What is said beside the choices."""

    def scored(self, index: int, scores: PromptScores) -> Iterable[dict[str, Any]]:
        """What a stream says of a choice's prompt, once that is scored."""

    def begin(self, index: int) -> dict[str, Any] | None:
        """What a stream says before anything is generated."""

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        """Some of a choice."""

    def end(self, index: int, finish: str) -> dict[str, Any]:
        """The last of a choice."""


def token_shown(service: Service, token: int, logprob: float) -> dict[str, Any]:
    data = service.grammars.token_bytes(token)
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(data),
    }
