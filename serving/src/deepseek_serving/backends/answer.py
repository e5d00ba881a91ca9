"""One answer while it is generated: events become pieces of text, thought and calls."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from deepseek_serving.backends.answer_metrics import AnswerMetrics
from deepseek_serving.backends.errors import (
    FAILURES,
    GenerationFailedError,
    GenerationFaultError,
)
from deepseek_serving.backends.event_bridge import EventBridge, EventQueue
from deepseek_serving.backends.requests import GenerationRequest
from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.generation.reply import Piece, ReplyParser
from deepseek_serving.generation.scheduler import Event, Scheduler, Ticket
from deepseek_serving.metrics import Metrics
from deepseek_serving.text.tokenizer import ChatTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Some of an answer, with the tokens that it took where log probabilities are asked for.

    `end` is the token that ended it, which is not in its text, if one did; `scores` are of the
    prompt, and come before anything else.
    """

    piece: Piece
    tokens: tuple[Choice, ...] = ()
    end: tuple[Choice, ...] = ()
    scores: PromptScores | None = None


class Generation:
    """One answer in the making: iterate over `chunks()` once, read the rest, and `close()`."""

    def __init__(
        self,
        request: GenerationRequest,
        number: int,
        *,
        scheduler: Scheduler,
        tokenizer: ChatTokenizer,
        metrics: Metrics,
        bridge: EventBridge,
    ) -> None:
        """`number`: which of the prompts of the client's request it answers."""
        self.request_number = number
        self._scheduler = scheduler
        self._bridge = bridge
        self._queue = EventQueue(bridge)
        # called from the scheduler's thread, and from the loop's
        self.receive, self.deliver = self._queue.receive, self._queue.deliver
        self._text = tokenizer.stream()
        # with log probabilities, and not in a chunk yet
        self._tokens: tuple[Choice, ...] = ()
        self._parser = ReplyParser(
            request.options.stop,
            thinking=request.wanted.thinking,
            tools=request.wanted.calls,
            keep_stop=request.options.include_stop,
        )
        # end tokens whose text is a part of the answer
        self._shown_ends = request.options.stop_tokens if request.options.include_stop else ()
        self._metrics = AnswerMetrics(metrics, len(request.prompt))
        self._closed = False
        self.ticket: Ticket | None = None
        self.finish_reason: str = ""
        # how it ends if it does not finish
        self._failure = "cancelled"

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that did not have to be read again."""
        return self.ticket.reused if self.ticket else 0

    @property
    def prompt_tokens(self) -> int:
        return self._metrics.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        return self._metrics.completion_tokens

    @property
    def reasoning_tokens(self) -> int:
        return self._metrics.reasoning_tokens

    async def chunks(self) -> AsyncIterator[list[Chunk]]:
        """Pieces of the answer, none of them empty: each time all that there are by then."""
        try:
            while not self.finish_reason:
                found: list[Chunk] = []
                try:
                    for event in await self._queue.next():
                        chunk = self._read(event)
                        if chunk is not None:
                            found.append(chunk)
                        if self.finish_reason:
                            break
                except GenerationFailedError:
                    if found:
                        yield found
                    raise
                if found:
                    yield found
        finally:
            self.close()

    def _read(self, event: Event) -> Chunk | None:
        piece = Piece()
        choice = event.choice
        end: tuple[Choice, ...] = ()
        if choice is not None:
            self._metrics.count_token(thinking=self._parser.thinking)
            scored = (choice,) if choice.logprob is not None else ()
            if event.is_end and choice.token not in self._shown_ends:
                end = scored
            else:
                piece = self._parser.push(self._pushed(choice.token))
                self._tokens += scored
        if event.finish is not None or self._parser.stopped:
            piece += self._end(event)
        told = end or event.scores is not None or (self.finish_reason and self._tokens)
        if not piece and not told:
            return None
        tokens, self._tokens = self._tokens, ()
        return Chunk(piece, tokens, end, event.scores)

    def _pushed(self, token: int) -> str:
        try:
            return self._text.push(token)
        except Exception as error:
            logger.exception("a token cannot be made into text; its request ends")
            self._failure = "failed"
            raise GenerationFaultError("failed") from error

    def _end(self, event: Event) -> Piece:
        """Note how the answer ends; what was held back until then."""
        if self._parser.stopped:
            finish, piece = "stop", self._parser.finish()
        elif event.finish in ("stop", "length"):
            finish, piece = event.finish, self._parser.finish(cut=event.finish == "length")
        else:
            self._failure = event.finish or "error"
            raise FAILURES.get(self._failure, GenerationFailedError)(event.finish)
        self.finish_reason = finish
        return piece

    def close(self) -> None:
        """Free the slot, if the answer is not complete, and count what was done; once."""
        if not self._closed:
            self._closed = True
            if self.ticket is not None:
                self._scheduler.cancel(self.ticket)
                # once the loop is free: the last of the answer need not wait for its count
                self._bridge.loop.call_soon(self._record, self.ticket, time.monotonic())

    def _record(self, ticket: Ticket, now: float) -> None:
        finish = self.finish_reason or self._failure
        self._metrics.record(ticket, now, finish, complete=bool(self.finish_reason))
