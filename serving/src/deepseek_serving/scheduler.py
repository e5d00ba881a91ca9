"""Continuous batching over fixed slots.

One thread owns the engine. Every step of its loop frees the slots of requests that were cancelled
or are past their deadline, gives free slots to those that wait, reads chunks of prompts within a
budget of tokens, and decodes one token for every slot past its prompt. So a long prompt delays the
others by one step's budget at a time, never by all of it.

Prompts are read in chunks that begin at multiples of the chunk's size, whatever the load is and
whatever a slot holds already. The same prompt is thus computed in the same pieces every time, and
what a slot keeps of an earlier prompt is bit for bit what reading it again would give.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from deepseek_serving.fair import FairQueue
from deepseek_serving.runtime import Candidates, Engine
from deepseek_serving.sampling import Choice, Constraint, Sampler, Sampling, SamplingError

logger = logging.getLogger(__name__)

# However many others there are, a long prompt gets one part of the engine's time to their four.
MOST_OTHERS = 4

FinishReason = Literal["stop", "length", "cancelled", "timeout", "refused", "error"]


class QueueFullError(Exception):
    """As many requests wait as may wait, in all or of one key."""

    def __init__(self, *, of_key: bool = False) -> None:
        super().__init__("too many requests are waiting")
        self.of_key = of_key


class ClosedError(Exception):
    """The scheduler takes no more requests."""


@dataclass(frozen=True)
class Limits:
    """How much waits, and how much a step does; None: as much as the queue, or one chunk."""

    queue: int = 64
    queue_per_key: int | None = None
    prefill_chunk: int = 128
    step_tokens: int | None = None
    # how long an idle engine keeps prompts that may come again
    idle_seconds: float = 60
    # a step takes milliseconds; an engine that is in one for so long hangs
    stuck_seconds: float = 120


@dataclass(frozen=True)
class Request:
    """What to generate: at most `max_tokens` after `prompt`, up to one of `end_tokens`.

    Requests of one `key` wait in one line, and may reuse what the cache holds of each other; those
    of different keys must not, since the time to the first token would tell what others ask.
    """

    prompt: Sequence[int]
    max_tokens: int
    end_tokens: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    key: str = ""
    timeout: float | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Event:
    """A token, the reason why no more will come, or both; an end token has no text."""

    choice: Choice | None = None
    finish: FinishReason | None = None
    is_end: bool = False

    @property
    def token(self) -> int | None:
        return None if self.choice is None else self.choice.token


Listener = Callable[[Event], None]


@dataclass(eq=False)
class Ticket:
    """A submitted request; its state belongs to the scheduler's thread."""

    request: Request
    listener: Listener
    sampler: Sampler
    submitted: float
    started: float | None = None
    read: int = 0
    reused: int = 0
    generated: int = 0
    last_token: int = 0
    cancelled: bool = False
    ended: bool = False

    @property
    def in_prefill(self) -> bool:
        return self.read < len(self.request.prompt)

    @property
    def length(self) -> int:
        """Tokens in the slot's cache; the last generated one is written by the next step."""
        return self.read + max(0, self.generated - 1)

    def unwanted(self, now: float) -> FinishReason | None:
        if self.cancelled:
            return "cancelled"
        timeout = self.request.timeout
        return "timeout" if timeout is not None and now >= self.submitted + timeout else None


@dataclass
class Slot:
    """A sequence's place in the batch, and whole chunks of the prompt that was there last."""

    ticket: Ticket | None = None
    key: str = ""
    held: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Where a step may write without spoiling what the cache holds."""
        return self.ticket.length if self.ticket else len(self.held)


@dataclass(frozen=True)
class State:
    """How busy the scheduler is, and what it has done so far."""

    waiting: int
    busy: int
    slots: int
    cache_tokens: int
    prompts: int
    prompts_reused: int
    prompt_tokens: int
    prompt_tokens_reused: int
    decode_steps: int
    decoded_tokens: int


@dataclass
class _Counts:
    prompts: int = 0
    prompts_reused: int = 0
    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    decode_steps: int = 0
    decoded_tokens: int = 0


def _common(first: Sequence[int], second: Sequence[int], size: int) -> int:
    """Tokens in the whole chunks with which both begin."""
    count = 0
    while count + size <= min(len(first), len(second)):
        end = count + size
        if list(first[count:end]) != list(second[count:end]):
            break
        count = end
    return count


class Scheduler:
    """Runs requests on an engine, `engine.slots` at a time."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self.limits = limits or Limits()
        self._chunk = self.limits.prefill_chunk
        self._budget = self.limits.step_tokens or self._chunk
        self._per_key = self.limits.queue_per_key
        self._waiting: FairQueue[Ticket] = FairQueue()
        self._slots = [Slot() for _slot in range(engine.slots)]
        # the slots with a ticket: most steps have few, and looking through all would take longer
        self._busy: set[int] = set()
        self._turn = 0
        # seconds of the engine that others are to have before the next chunk of a long prompt
        self._owed = 0.0
        self._counts = _Counts()
        self._changed = threading.Condition()
        self._closing = False
        self._draining = False
        self._failed = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    @property
    def max_len(self) -> int:
        return self._engine.max_len

    @property
    def most(self) -> int:
        """Requests of one key that can be in work and wait together, when nobody else is there."""
        queue = self.limits.queue
        return len(self._slots) + (queue if self._per_key is None else min(queue, self._per_key))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, end those that run, and wait for the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""
        with self._changed:
            self._draining = True

    @property
    def healthy(self) -> bool:
        refuses = self._closing or self._draining or self._failed
        return self._thread.is_alive() and not refuses and not self.stuck

    @property
    def stuck(self) -> bool:
        """Whether the engine hangs in a step."""
        began = self._step_began
        return began is not None and time.monotonic() - began >= self.limits.stuck_seconds

    @property
    def failed(self) -> bool:
        return self._failed

    def state(self) -> State:
        with self._changed:
            return State(
                waiting=len(self._waiting),
                busy=len(self._busy),
                slots=len(self._slots),
                cache_tokens=sum(slot.length for slot in self._slots),
                **vars(self._counts),
            )

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queue a request; `listener` is called from the scheduler's thread and must not block."""
        (ticket,) = self.submit_all([(request, listener)])
        return ticket

    def submit_all(self, requests: Sequence[tuple[Request, Listener]]) -> list[Ticket]:
        """Queue requests of one key, all of them or none."""
        for request, _listener in requests:
            self._check(request)
        now = time.monotonic()
        tickets = [
            Ticket(
                request,
                listener,
                Sampler(request.sampling, request.prompt, request.constraint),
                now,
            )
            for request, listener in requests
        ]
        with self._changed:
            if self._closing or self._draining or self._failed:
                raise ClosedError
            self._make_sure_of_room(requests[0][0].key, len(tickets))
            for ticket in tickets:
                self._waiting.push(ticket.request.key, ticket)
            self._changed.notify()
        return tickets

    def _check(self, request: Request) -> None:
        if not 0 < len(request.prompt) < self._engine.max_len:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens does not fit: 1 to "
                f"{self._engine.max_len - 1} do"
            )
        if request.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")

    def _make_sure_of_room(self, key: str, count: int) -> None:
        # those that a free slot takes at the next step do not wait
        free = len(self._slots) - len(self._busy)
        if len(self._waiting) + count > self.limits.queue + free:
            raise QueueFullError
        if self._per_key is not None and self._waiting.waiting(key) + count > self._per_key + free:
            raise QueueFullError(of_key=True)

    def cancel(self, ticket: Ticket) -> None:
        """Stop generating; the slot is free at the next step. Safe at any time, from any thread."""
        if ticket.ended:
            # its slot is free already: no reason to wake the scheduler's thread
            return
        with self._changed:
            ticket.cancelled = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._admit():
                self._step_began = time.monotonic()
                self._prefill_turn()
                self._decode_turn()
                self._step_began = None
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
            with self._changed:
                ended = self._take_out()
                while self._waiting and len(self._busy) < len(self._slots):
                    _key, ticket = self._waiting.pop()
                    self._place(ticket)
                active = bool(self._busy)
                if not ended and not active and not self._closing:
                    self._sleep()
                    continue
            # outside the lock: a listener may call back
            for ticket, reason in ended:
                ticket.listener(Event(finish=reason))
            if self._closing:
                return False
            if active:
                return True

    def _sleep(self) -> None:
        """Until something changes; the engine may forget what nobody has asked for in a while."""
        if any(slot.held for slot in self._slots) and self._changed.wait(self.limits.idle_seconds):
            return
        for slot in self._slots:
            slot.held = ()
        self._engine.reset()
        # a request may have come while the lock was held by the wait that timed out
        if not self._waiting and not self._closing:
            self._changed.wait()

    def _take_out(self) -> list[tuple[Ticket, FinishReason]]:
        """What is cancelled or late, from the slots and from the queue."""
        now = time.monotonic()
        ended: list[Ticket] = []
        for index in sorted(self._busy):
            ticket = self._ticket(index)
            if ticket.unwanted(now):
                ended.append(ticket)
                self._free(index)
        ended += self._waiting.remove(lambda ticket: ticket.unwanted(now) is not None)
        return [(ticket, ticket.unwanted(now) or "cancelled") for ticket in ended]

    def _place(self, ticket: Ticket) -> None:
        """Into the free slot that holds most of the prompt; the first one if none does."""
        request = ticket.request
        # the last token must be read, since what follows it is what was asked for
        prompt = request.prompt[: len(request.prompt) - 1]
        known = {
            index: _common(slot.held, prompt, self._chunk)
            for index, slot in enumerate(self._slots)
            if slot.held and slot.ticket is None and slot.key == request.key
        }
        best = max(known, key=lambda index: known[index], default=0)
        reused = known.get(best, 0)
        if not reused:
            best = next(index for index in range(len(self._slots)) if index not in self._busy)
        self._slots[best] = Slot(ticket, request.key)
        self._busy.add(best)
        ticket.started = time.monotonic()
        ticket.read = ticket.reused = reused
        counts = self._counts
        counts.prompts += 1
        counts.prompts_reused += reused > 0
        counts.prompt_tokens += len(request.prompt)
        counts.prompt_tokens_reused += reused

    def _ticket(self, index: int) -> Ticket:
        """What is in a busy slot."""
        ticket = self._slots[index].ticket
        assert ticket is not None
        return ticket

    def _free(self, index: int) -> None:
        slot, ticket = self._slots[index], self._ticket(index)
        whole = ticket.read // self._chunk * self._chunk
        slot.held = ticket.request.prompt[:whole]
        slot.ticket = None
        self._busy.remove(index)
        ticket.ended = True

    def _left(self, index: int) -> int:
        """Tokens of a busy slot's prompt that are still to be read."""
        ticket = self._ticket(index)
        return len(ticket.request.prompt) - ticket.read

    def _is_long(self, index: int) -> bool:
        """Whether more of a prompt is left than a chunk."""
        return self._left(index) > self._chunk

    def _long_and_other(self) -> tuple[int, int]:
        """Slots in the middle of a long prompt, and those in any other work."""
        long = sum(self._is_long(index) for index in self._busy)
        return long, len(self._busy) - long

    def _next_prefill(self, *, long_too: bool) -> int | None:
        """The prompts take turns; long ones come first where they may be read at all."""
        reading = [index for index in self._busy if self._left(index)]
        reading.sort(key=lambda index: (index - self._turn) % len(self._slots))
        long = [index for index in reading if self._is_long(index)] if long_too else []
        ending = [index for index in reading if not self._is_long(index)]
        return next(iter(long + ending), None)

    def _prefill_turn(self) -> None:
        """Chunks of prompts, as many as fit into the step beside decoding, and at least one.

        Long prompts get the share of the engine's time that their slots are of those in work, and
        no less than 1 in 1 + `MOST_OTHERS`: what is short, and what is being answered, goes on at
        about the speed that it would have beside so many short ones.
        """
        left = self._budget - sum(not self._left(index) for index in self._busy)
        long_too = self._owed <= 0 or not self._long_and_other()[1]
        begun = False
        while (index := self._next_prefill(long_too=long_too)) is not None:
            ticket = self._ticket(index)
            chunk = ticket.request.prompt[ticket.read : ticket.read + self._chunk]
            if begun and len(chunk) > left:
                return
            begun = True
            left -= len(chunk)
            candidates = self._read_chunk(index, ticket, chunk)
            if not ticket.in_prefill:
                self._advance(index, candidates, 0, self._engine.logits)

    def _read_chunk(self, index: int, ticket: Ticket, chunk: Sequence[int]) -> Candidates:
        began = self._clock()
        candidates = self._engine.prefill(index, chunk, ticket.read)
        taken = self._clock() - began
        if self._is_long(index):
            self._turn = index + 1
            long, others = self._long_and_other()
            self._owed += taken * min(others / long, MOST_OTHERS)
        else:
            self._owed = max(0.0, self._owed - taken)
        ticket.read += len(chunk)
        return candidates

    def _decode_turn(self) -> None:
        """One token for every slot past its prompt, up to the last such slot."""
        ready = sorted(index for index in self._busy if not self._left(index))
        if not ready:
            return
        batch = self._slots[: ready[-1] + 1]
        began = self._clock()
        candidates = self._engine.decode(
            [slot.ticket.last_token if slot.ticket else 0 for slot in batch],
            [slot.length for slot in batch],
        )
        self._owed = max(0.0, self._owed - (self._clock() - began))
        with self._changed:
            self._counts.decode_steps += 1
            self._counts.decoded_tokens += len(ready)
        # fetched once a step, and only if a sequence asks for it
        logits = functools.cache(self._engine.logits)
        for index in ready:
            self._advance(index, candidates, index, logits)

    def _advance(
        self,
        index: int,
        candidates: Candidates,
        row: int,
        logits: Callable[[], npt.NDArray[np.float32]],
    ) -> None:
        """Choose the sequence's next token, tell its listener, and free the slot at the end."""
        ticket = self._ticket(index)
        try:
            choice = ticket.sampler.choose(
                candidates.values[row], candidates.tokens[row], lambda: logits()[row]
            )
        except SamplingError as error:
            logger.warning("a request ends without an answer: %s", error)
            event = Event(finish="refused")
        else:
            ticket.last_token = choice.token
            ticket.generated += 1
            finish = self._finish(ticket, choice.token)
            event = Event(choice, finish, is_end=choice.token in ticket.request.end_tokens)
        if event.finish is not None:
            with self._changed:
                self._free(index)
        ticket.listener(event)

    def _finish(self, ticket: Ticket, token: int) -> FinishReason | None:
        request = ticket.request
        if token in request.end_tokens or ticket.sampler.complete:
            return "stop"
        full = len(request.prompt) + ticket.generated >= self._engine.max_len
        return "length" if full or ticket.generated >= request.max_tokens else None

    def _end_all(self, reason: FinishReason) -> None:
        with self._changed:
            left = [self._ticket(index) for index in sorted(self._busy)]
            left += self._waiting.remove(lambda _ticket: True)
            self._slots = [Slot() for _slot in self._slots]
            self._busy.clear()
        for ticket in left:
            ticket.listener(Event(finish=reason))
