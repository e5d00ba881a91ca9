"""Log probabilities of a prompt's tokens, as vLLM writes them."""

from __future__ import annotations

import itertools
from typing import Any

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.http.shapes import LEAST_LOGPROB
from deepseek_serving.http.sliced_json import Series


def prompt_logprobs(service: Service, scores: PromptScores, count: int) -> Series[Choice | None]:
    """For each token of the prompt itself and the `count` best, by their numbers.

    Nothing comes before the first token, so it has none.
    """

    def entry(token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {
            "logprob": max(logprob, LEAST_LOGPROB),
            "rank": rank,
            "decoded_token": service.grammars.token_bytes(token).decode("utf-8", "replace"),
        }

    def form(choice: Choice | None) -> dict[str, Any] | None:
        if choice is None:
            return None
        own = {str(choice.token): entry(choice.token, choice.logprob or 0.0, choice.rank)}
        ranked = enumerate(choice.top[:count], start=1)
        return {**{str(t.token): entry(t.token, t.logprob, rank) for rank, t in ranked}, **own}

    return Series(itertools.chain([None], scores), form)
