"""Continuous batching over fixed slots.

One thread owns the engine. Every turn of its loop frees the slots of cancelled requests, gives
free slots to those that wait longest, reads one chunk of one prompt, and decodes one token for
every slot past its prompt. So a long prompt delays the others by one chunk at a time, never by all
of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from deepseek_serving.runtime import Candidates, Engine
from deepseek_serving.sampling import Sampling, choose

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled", "error"]


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class ClosedError(Exception):
    """The scheduler takes no more requests."""


@dataclass(frozen=True)
class Request:
    """What to generate: at most `max_tokens` after `prompt`, up to one of `end_tokens`."""

    prompt: Sequence[int]
    max_tokens: int
    end_tokens: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Event:
    """A token, the reason why no more will come, or both."""

    token: int | None = None
    finish: FinishReason | None = None


Listener = Callable[[Event], None]


@dataclass(eq=False)
class Ticket:
    """A submitted request; its state belongs to the scheduler's thread."""

    request: Request
    listener: Listener
    generator: np.random.Generator
    submitted: float
    started: float | None = None
    read: int = 0
    generated: int = 0
    last_token: int = 0
    cancelled: bool = False

    @property
    def in_prefill(self) -> bool:
        return self.read < len(self.request.prompt)

    @property
    def length(self) -> int:
        """Tokens in the slot's cache; the last generated one is written by the next step."""
        return self.read + max(0, self.generated - 1)


@dataclass(frozen=True)
class State:
    """How busy the scheduler is."""

    waiting: int
    busy: int
    slots: int


class Scheduler:
    """Runs requests on an engine, `engine.slots` at a time."""

    def __init__(self, engine: Engine, *, queue: int = 64, prefill_chunk: int = 128) -> None:
        self._engine = engine
        self._queue_limit = queue
        self._chunk = prefill_chunk
        self._waiting: deque[Ticket] = deque()
        self._slots: list[Ticket | None] = [None] * engine.slots
        self._turn = 0
        self._changed = threading.Condition()
        self._closing = False
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @property
    def max_len(self) -> int:
        return self._engine.max_len

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, end those that run, and wait for the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._closing and not self._failed

    def state(self) -> State:
        with self._changed:
            busy = sum(ticket is not None for ticket in self._slots)
            return State(len(self._waiting), busy, len(self._slots))

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queue a request; `listener` is called from the scheduler's thread and must not block."""
        if not 0 < len(request.prompt) < self._engine.max_len:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens does not fit: 1 to "
                f"{self._engine.max_len - 1} do"
            )
        if request.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        generator = request.sampling.generator()
        ticket = Ticket(request, listener, generator, time.monotonic())
        with self._changed:
            if self._closing or self._failed:
                raise ClosedError
            # those that a free slot takes at the next turn do not wait
            free = sum(slot is None for slot in self._slots)
            if len(self._waiting) >= self._queue_limit + free:
                raise QueueFullError
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop generating; the slot is free at the next turn. Safe at any time, from any thread."""
        with self._changed:
            ticket.cancelled = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._admit():
                self._prefill_turn()
                self._decode_turn()
        except Exception:
            logger.exception("the engine failed; the service is no longer ready")
            with self._changed:
                self._failed = True
            self._end_all("error")
        else:
            self._end_all("cancelled")

    def _admit(self) -> bool:
        """Free and fill slots; sleep while there is nothing to do; False to stop."""
        while True:
            ended: list[Ticket] = []
            with self._changed:
                for index, ticket in enumerate(self._slots):
                    if ticket is not None and ticket.cancelled:
                        self._slots[index] = None
                        ended.append(ticket)
                ended += [ticket for ticket in self._waiting if ticket.cancelled]
                self._waiting = deque(t for t in self._waiting if not t.cancelled)
                for index, ticket in enumerate(self._slots):
                    if ticket is None and self._waiting:
                        self._slots[index] = started = self._waiting.popleft()
                        started.started = time.monotonic()
                active = any(ticket is not None for ticket in self._slots)
                if not ended and not active and not self._closing:
                    self._engine.reset()
                    self._changed.wait()
                    continue
            # outside the lock: a listener may call back
            for ticket in ended:
                ticket.listener(Event(finish="cancelled"))
            if self._closing:
                return False
            if active:
                return True

    def _prefill_turn(self) -> None:
        """One chunk of one prompt; the prompts take turns."""
        count = len(self._slots)
        for step in range(count):
            slot = (self._turn + step) % count
            ticket = self._slots[slot]
            if ticket is not None and ticket.in_prefill:
                break
        else:
            return
        self._turn = slot + 1
        chunk = ticket.request.prompt[ticket.read : ticket.read + self._chunk]
        candidates = self._engine.prefill(slot, chunk, ticket.read)
        ticket.read += len(chunk)
        if not ticket.in_prefill:
            self._advance(slot, ticket, candidates, 0)

    def _decode_turn(self) -> None:
        """One token for every slot past its prompt, up to the last such slot."""
        ready = [
            slot
            for slot, ticket in enumerate(self._slots)
            if ticket is not None and not ticket.in_prefill
        ]
        if not ready:
            return
        batch = self._slots[: ready[-1] + 1]
        candidates = self._engine.decode(
            [ticket.last_token if ticket else 0 for ticket in batch],
            [ticket.length if ticket else 0 for ticket in batch],
        )
        for slot in ready:
            ticket = self._slots[slot]
            assert ticket is not None
            self._advance(slot, ticket, candidates, slot)

    def _advance(self, slot: int, ticket: Ticket, candidates: Candidates, row: int) -> None:
        """Choose the sequence's next token, tell its listener, and free the slot at the end."""
        request = ticket.request
        token = choose(
            candidates.values[row], candidates.tokens[row], request.sampling, ticket.generator
        )
        ticket.last_token = token
        ticket.generated += 1
        finish: FinishReason | None = None
        if token in request.end_tokens:
            finish = "stop"
        elif (
            ticket.generated >= request.max_tokens
            or len(request.prompt) + ticket.generated >= self._engine.max_len
        ):
            finish = "length"
        if finish is not None:
            with self._changed:
                self._slots[slot] = None
        ticket.listener(Event(token=token, finish=finish))

    def _end_all(self, reason: FinishReason) -> None:
        with self._changed:
            left = [ticket for ticket in (*self._slots, *self._waiting) if ticket is not None]
            self._slots = [None] * len(self._slots)
            self._waiting.clear()
        for ticket in left:
            ticket.listener(Event(finish=reason))
