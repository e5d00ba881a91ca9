"""Continuous batching over fixed slots: who gets one, when, and when it is given back.

One thread owns the engine. Every step of its loop frees the slots of requests that were cancelled
or are past their deadline, gives free slots to those that wait, and lets the engine read chunks of
prompts and decode a token for every slot past its prompt (`steps`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from deepseek_serving.generation.batch import Batch
from deepseek_serving.generation.fair import FairQueue
from deepseek_serving.generation.sampling import Sampler
from deepseek_serving.generation.steps import Steps
from deepseek_serving.generation.tickets import (
    ClosedError,
    Counts,
    Event,
    FinishReason,
    Limits,
    Listener,
    QueueFullError,
    Request,
    State,
    Ticket,
)
from deepseek_serving.runtime import Engine
from deepseek_serving.runtime.question import Question

__all__ = ["ClosedError", "Event", "Limits", "QueueFullError", "Request", "Scheduler", "Ticket"]

logger = logging.getLogger(__name__)

# while all that is in work waits for that, how often deadlines are looked at
LOOK_SECONDS = 0.05


class Scheduler:
    """Runs requests on an engine, `engine.slots` at a time."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        question: Question | None = None,
    ) -> None:
        """`question` tells after a failed step whether the engine can go on; without, it cannot."""
        self._engine = engine
        self.limits = limits or Limits()
        self._per_key = self.limits.queue_per_key
        self._waiting: FairQueue[Ticket] = FairQueue()
        self._batch = Batch(engine.slots, self.limits.prefill_chunk)
        self._counts = Counts()
        self._changed = threading.Condition()
        self._steps = Steps(
            engine, self._batch, self._counts, self.limits, self._changed, clock, question
        )
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
        return len(self._batch.slots) + (
            queue if self._per_key is None else min(queue, self._per_key)
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, end those that run, and wait for the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def drain(self) -> None:
        """Take no more requests. What has begun goes on; what has not, and may be, is returned."""
        with self._changed:
            self._draining = True
            self._changed.notify()

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
                busy=len(self._batch.busy),
                slots=len(self._batch.slots),
                cache_tokens=self._batch.cache_tokens,
                **vars(self._counts),
            )

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Queue a request; `listener` is called from the scheduler's thread and must not block."""
        (ticket,) = self.submit_all([(request, listener)])
        return ticket

    def submit_all(self, requests: Sequence[tuple[Request, Listener]]) -> list[Ticket]:
        """Queue requests of one key, all of them or none."""
        for request, _listener in requests:
            request.check(self._engine.max_len)
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
        for ticket in tickets:
            ticket.together = tickets
        with self._changed:
            if self._closing or self._draining or self._failed:
                raise ClosedError
            self._make_sure_of_room(requests[0][0].key, len(tickets))
            for ticket in tickets:
                self._waiting.push(ticket.request.key, ticket)
            self._changed.notify()
        return tickets

    def _make_sure_of_room(self, key: str, count: int) -> None:
        # those that a free slot takes at the next step do not wait
        free = self._batch.free
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
                self._steps.prefill_turn()
                self._steps.decode_turn()
                self._step_began = None
        except BaseException:
            # a panic in a library is no Exception
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
                while self._waiting and self._batch.free:
                    _key, ticket = self._waiting.pop()
                    self._place(ticket)
                active = any(self._batch.can_step(index) for index in self._batch.busy)
                if not ended and not active and not self._closing:
                    self._sleep()
                    continue
            # outside the lock: a listener may call back
            for ticket, reason in ended:
                self._steps.tell(ticket, Event(finish=reason))
            if self._closing:
                return False
            if active:
                return True

    def _sleep(self) -> None:
        """Until something changes; the engine may forget what nobody has asked for in a while."""
        if self._batch.busy:
            self._changed.wait(LOOK_SECONDS)
            return
        held = any(slot.held for slot in self._batch.slots)
        if held and self._changed.wait(self.limits.idle_seconds):
            return
        self._batch.forget()
        self._engine.reset()
        # a request may have come while the lock was held by the wait that timed out
        if not self._waiting and not self._closing:
            self._changed.wait()

    def _take_out(self) -> list[tuple[Ticket, FinishReason]]:
        """What is cancelled or late, from the slots and from the queue."""
        now = time.monotonic()
        ended: list[Ticket] = []
        for index in sorted(self._batch.busy):
            if self._batch.ticket(index).unwanted(now):
                ended.append(self._batch.release(index))
        ended += self._waiting.remove(lambda ticket: ticket.unwanted(now) is not None)
        reasons = [(ticket, ticket.unwanted(now) or "cancelled") for ticket in ended]
        if self._draining:
            returned = self._waiting.remove(lambda ticket: ticket.may_return)
            reasons += [(ticket, "returned") for ticket in returned]
        return reasons

    def _place(self, ticket: Ticket) -> None:
        self._batch.place(ticket)
        ticket.started = time.monotonic()
        counts = self._counts
        counts.prompts += 1
        counts.prompts_reused += ticket.reused > 0
        counts.prompt_tokens += len(ticket.request.prompt)
        counts.prompt_tokens_reused += ticket.reused
        self._steps.begin(ticket)

    def _end_all(self, reason: FinishReason) -> None:
        with self._changed:
            left = self._batch.clear()
            left += self._waiting.remove(lambda _ticket: True)
        for ticket in left:
            self._steps.tell(ticket, Event(finish=reason))
