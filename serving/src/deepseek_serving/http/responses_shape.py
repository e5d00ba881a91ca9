"""The response object, and its events as they are sent."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.json_members import encoded_members
from deepseek_serving.http.responses_output import Event, Output, Status

# what an answer of chat completions ends with, where it is not complete
INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
# of the errors that OpenAI's clients know, by HTTP status
ERRORS: Mapping[int, str] = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


def usage(counted: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat answer has cost, as responses name it; in tokens."""
    prompt, completion = (counted.get(f"{name}_tokens") or 0 for name in ("prompt", "completion"))
    read = counted.get("prompt_tokens_details") or {}
    written = counted.get("completion_tokens_details") or {}
    return {
        "input_tokens": prompt,
        # nothing is written to a cache that could be asked for
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens") or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": prompt + completion,
    }


def _status(finish: str) -> Status:
    return "incomplete" if finish in INCOMPLETE else "completed"


@dataclass
class ResponseShape:
    """One response: its object at every time, and the events of its stream.

    `echo` has the members that say what was asked, encoded already: they may be long.
    """

    model: str
    echo: str
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": self.model,
        }
        self._number = 0

    def _object(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        counted: Mapping[str, Any] | None = None,
        reason: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> str:
        members = {
            **self._head,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": error,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": output,
            "usage": None if counted is None else usage(counted),
        }
        return f"{{{encoded_members(members)},{self.echo}}}"

    def _ended(self, finish: str, counted: Mapping[str, Any]) -> str:
        return self._object(
            _status(finish), self.output.items, counted=counted, reason=INCOMPLETE.get(finish)
        )

    def whole(self, finish: str, counted: Mapping[str, Any]) -> str:
        """The object of an answer that has come to its end."""
        for _event in self.output.end(_status(finish)):
            pass
        return self._ended(finish, counted)

    def begun(self) -> str:
        """The events that tell of the response, before anything is generated."""
        kinds = ("response.created", "response.in_progress")
        return "".join(self._lifecycle(kind, self._object("in_progress", [])) for kind in kinds)

    def told(self, choices: Iterable[Mapping[str, Any]]) -> str:
        """The events of some of the answer, as chat completions stream it.

        Raises MalformedAnswerError.
        """
        return "".join(
            self._written(self.output.push(choice["delta"], choice.get("logprobs")))
            for choice in choices
        )

    def _written(self, events: Iterable[Event]) -> str:
        return "".join(map(self._event, events))

    def _event(self, event: Event) -> str:
        return self._sent(event["type"], encoded_members(event))

    def ended(self, finish: str, counted: Mapping[str, Any]) -> Iterator[str]:
        """The last events of an answer that has come to its end, each by itself: they are long."""
        status = _status(finish)
        yield from map(self._event, self.output.end(status))
        yield self._lifecycle(f"response.{status}", self._ended(finish, counted))

    def failed(self, error: ApiError) -> Iterator[str]:
        """The last events of an answer that was not completed."""
        yield from map(self._event, self.output.end("incomplete"))
        shown = {"code": ERRORS.get(error.status, "server_error"), "message": str(error)}
        yield self._lifecycle(
            "response.failed", self._object("failed", self.output.items, error=shown)
        )

    def _lifecycle(self, kind: str, whole: str) -> str:
        return self._sent(kind, f'"type":"{kind}","response":{whole}')

    def _sent(self, kind: str, members: str) -> str:
        number, self._number = self._number, self._number + 1
        return f'event: {kind}\ndata: {{{members},"sequence_number":{number}}}\n\n'
