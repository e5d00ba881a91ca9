"""Answers as chat completions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepseek_serving.backends.answer import Chunk
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.call_reading import ToolCall
from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.http.answers import CompletedAnswer
from deepseek_serving.http.prompt_scores import prompt_logprobs
from deepseek_serving.http.shapes import token_shown
from deepseek_serving.http.sliced_json import Series


class ChatShape:
    """Answers as chat completions."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self, service: Service, *, logprobs: bool, prompt_logprobs: int | None = None
    ) -> None:
        self._service = service
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        # calls so far, by choice
        self._calls: dict[int, dict[str, int]] = {}

    def _token(self, choice: Choice) -> dict[str, Any]:
        best = [token_shown(self._service, top.token, top.logprob) for top in choice.top]
        own = token_shown(self._service, choice.token, choice.logprob or 0.0)
        return {**own, "top_logprobs": best}

    def whole(self, index: int, answer: CompletedAnswer, finish: str) -> dict[str, Any]:
        piece = answer.piece
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if piece.calls and not piece.content.strip() else piece.content,
            "refusal": None,
        }
        if piece.reasoning:
            message["reasoning_content"] = piece.reasoning
        if piece.calls:
            message["tool_calls"] = [_call(call) for call in piece.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": (
                {"content": Series(answer.tokens, self._token), "refusal": None}
                if self._logprobs
                else None
            ),
            "finish_reason": "tool_calls" if piece.calls and finish == "stop" else finish,
        }

    def beside(self, answers: Sequence[CompletedAnswer]) -> dict[str, Any]:
        """Of the prompt, which all answers share."""
        scores = answers[0].scores
        if scores is None or self._prompt_logprobs is None:
            return {}
        shown = prompt_logprobs(self._service, scores, self._prompt_logprobs)
        return {"prompt_logprobs": shown}

    def scored(self, index: int, scores: PromptScores) -> Iterable[dict[str, Any]]:
        """Nothing: prompts of streams are not scored."""
        return ()

    def _delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _listed(self, tokens: Sequence[Choice]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": list(map(self._token, tokens)), "refusal": None}

    def begin(self, index: int) -> dict[str, Any] | None:
        return self._delta(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, chunk: Chunk) -> dict[str, Any]:
        piece = chunk.piece
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.content:
            delta["content"] = piece.content
        if piece.calls:
            delta["tool_calls"] = [self._part(index, call) for call in piece.calls]
        return self._delta(index, delta, logprobs=self._listed(chunk.tokens))

    def _part(self, index: int, call: ToolCall) -> dict[str, Any]:
        """The whole of a call that is new, and of another one what its arguments go on with."""
        numbers = self._calls.setdefault(index, {})
        if call.id in numbers:
            return {"index": numbers[call.id], "function": {"arguments": call.arguments}}
        numbers[call.id] = len(numbers)
        return {"index": numbers[call.id], **_call(call)}

    def end(self, index: int, finish: str) -> dict[str, Any]:
        called = finish == "stop" and index in self._calls
        return self._delta(index, {}, "tool_calls" if called else finish)


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
