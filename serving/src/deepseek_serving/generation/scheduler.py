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

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError, library_error
from deepseek_serving.generation.fair import FairQueue
from deepseek_serving.generation.sampling import Sampler, SamplingError
from deepseek_serving.generation.tickets import (
    ClosedError,
    Counts,
    Event,
    FinishReason,
    Limits,
    Listener,
    QueueFullError,
    Request,
    Slot,
    State,
    Ticket,
    best_slot,
)
from deepseek_serving.runtime import Candidates, Engine
from deepseek_serving.runtime.question import Question

__all__ = ["ClosedError", "Event", "Limits", "QueueFullError", "Request", "Scheduler", "Ticket"]

logger = logging.getLogger(__name__)

# However many others there are, a long prompt gets one part of the engine's time to their four.
MOST_OTHERS = 4
# seconds that a step waits for what may come next in it, or as long as the step took
LEAST_WAIT = 0.002
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
        self._clock = clock
        self._engine = engine
        self._question = question
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
        self._took = 0.0  # seconds of the last chunk
        self._counts = Counts()
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
                while self._waiting and len(self._busy) < len(self._slots):
                    _key, ticket = self._waiting.pop()
                    self._place(ticket)
                active = any(self._can_step(index) for index in self._busy)
                if not ended and not active and not self._closing:
                    self._sleep()
                    continue
            # outside the lock: a listener may call back
            for ticket, reason in ended:
                self._tell(ticket, Event(finish=reason))
            if self._closing:
                return False
            if active:
                return True

    def _sleep(self) -> None:
        """Until something changes; the engine may forget what nobody has asked for in a while."""
        if self._busy:
            self._changed.wait(LOOK_SECONDS)
            return
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
        reasons = [(ticket, ticket.unwanted(now) or "cancelled") for ticket in ended]
        if self._draining:
            returned = self._waiting.remove(lambda ticket: ticket.may_return)
            reasons += [(ticket, "returned") for ticket in returned]
        return reasons

    def _can_step(self, index: int) -> bool:
        """Whether a busy slot need not wait for what may come next in it."""
        ticket = self._ticket(index)
        return not ticket.late or ticket.sampler.wait(0)

    def _wake(self) -> None:
        """From the threads that find out what may come next."""
        with self._changed:
            self._changed.notify()

    def _tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.listener(event)
        except Exception:
            logger.exception("a listener failed")
            ticket.cancelled = True

    def _place(self, ticket: Ticket) -> None:
        request = ticket.request
        best, reused = best_slot(self._slots, request, self._chunk)
        self._slots[best] = Slot(ticket, request.key)
        self._busy.add(best)
        ticket.started = time.monotonic()
        ticket.read = ticket.reused = reused
        counts = self._counts
        counts.prompts += 1
        counts.prompts_reused += reused > 0
        counts.prompt_tokens += len(request.prompt)
        counts.prompt_tokens_reused += reused
        ticket.sampler.begin(self._wake)

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
        busy = [index for index in self._busy if self._can_step(index)]
        long = sum(self._is_long(index) for index in busy)
        return long, len(busy) - long

    def _next_prefill(self, *, long_too: bool) -> int | None:
        """The prompts take turns; long ones come first where they may be read at all."""
        reading = [index for index in self._busy if self._left(index) and self._can_step(index)]
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
            try:
                candidates = self._read_chunk(index, ticket, chunk)
            except BaseException as error:
                self._recover([(index, library_error("the engine", error))])
                continue
            if ticket.in_prefill:
                continue
            if self._in_time(ticket, self._clock() + max(LEAST_WAIT, self._took)):
                self._recover(self._advance([(index, 0)], candidates))
            else:
                # read again, once it is known what may follow
                ticket.read -= len(chunk)

    def _read_chunk(self, index: int, ticket: Ticket, chunk: Sequence[int]) -> Candidates:
        began = self._clock()
        candidates = self._engine.prefill(index, chunk, ticket.read)
        self._took = taken = self._clock() - began
        if self._is_long(index):
            self._turn = index + 1
            long, others = self._long_and_other()
            self._owed += taken * min(others / max(1, long), MOST_OTHERS)
        else:
            self._owed = max(0.0, self._owed - taken)
        ticket.read += len(chunk)
        return candidates

    def _in_time(self, ticket: Ticket, until: float) -> bool:
        """Whether it is known by then what may come next; a sequence that is late waits alone."""
        ticket.late = not ticket.sampler.wait(until - self._clock())
        return not ticket.late

    def _end_known(self) -> None:
        """Sequences of which it turned out meanwhile that nothing may follow, or can."""
        for index in sorted(self._busy):
            ticket = self._ticket(index)
            if self._left(index) or not ticket.generated:
                continue
            if ticket.sampler.complete:
                self._end(index, Event(finish="stop"))
            elif ticket.full and ticket.sampler.wait(0):
                self._end(index, Event(finish="length"))

    def _ready(self) -> list[int]:
        """Slots past their prompt whose next token can be chosen."""
        past = [i for i in self._busy if not self._left(i) and not self._ticket(i).full]
        return sorted(i for i in past if self._can_step(i))

    def _decode_turn(self) -> None:
        """One token for every slot past its prompt, up to the last such slot."""
        self._end_known()
        ready = self._ready()
        if not ready:
            return
        batch = self._slots[: ready[-1] + 1]
        began = self._clock()
        try:
            candidates = self._engine.decode(
                [slot.ticket.last_token if slot.ticket else 0 for slot in batch],
                [slot.length for slot in batch],
            )
        except BaseException as error:
            failed = library_error("the engine", error)
            self._recover([(index, failed) for index in ready])
            return
        ended = self._clock()
        self._owed = max(0.0, self._owed - (ended - began))
        with self._changed:
            self._counts.decode_steps += 1
            self._counts.decoded_tokens += len(ready)
        until = ended + max(LEAST_WAIT, ended - began)
        # one that is late takes part in the next step again, with the same token at the same place
        rows = [(index, index) for index in ready if self._in_time(self._ticket(index), until)]
        self._recover(self._advance(rows, candidates))

    def _advance(
        self, rows: Sequence[tuple[int, int]], candidates: Candidates
    ) -> list[tuple[int, Exception]]:
        """Choose the next token of slots, each from its row; those that the engine failed."""
        # fetched once a step, and only if a sequence asks for it
        logits = functools.cache(self._engine.logits)
        failed: list[tuple[int, Exception]] = []
        for index, row in rows:
            try:
                self._advance_one(index, candidates, row, logits)
            except BaseException as error:
                failed.append((index, library_error("sampling", error)))
        return failed

    def _advance_one(
        self,
        index: int,
        candidates: Candidates,
        row: int,
        logits: Callable[[], npt.NDArray[np.float32]],
    ) -> None:
        """Choose the sequence's next token, tell its listener, and free the slot at the end."""
        ticket = self._ticket(index)
        if ticket.generated and ticket.sampler.complete:
            self._end(index, Event(finish="stop"))
            return
        try:
            choice = ticket.sampler.choose(
                candidates.values[row], candidates.tokens[row], lambda: logits()[row]
            )
        except SamplingError as error:
            logger.warning("a request ends without an answer: %s", error)
            self._end(index, Event(finish="refused"))
            return
        ticket.last_token = choice.token
        ticket.generated += 1
        finish = ticket.finish(choice.token, self._engine.max_len)
        event = Event(choice, finish, is_end=choice.token in ticket.request.end_tokens)
        if finish == "length" and ticket.request.constraint is not None:
            # whether it is complete as well is not known yet
            finish, event, ticket.full, ticket.late = None, Event(choice), True, True
        if finish is not None:
            self._end(index, event)
        else:
            ticket.sampler.begin(self._wake)
            self._tell(ticket, event)

    def _end(self, index: int, event: Event) -> None:
        ticket = self._ticket(index)
        with self._changed:
            self._free(index)
        self._tell(ticket, event)

    def _recover(self, failed: Sequence[tuple[int, Exception]]) -> None:
        """End the sequences that the engine failed, and find out whether it can go on.

        Raises EngineError if it cannot, or if nothing is there to ask it.
        """
        if not failed:
            return
        if self._question is None:
            raise failed[0][1]
        for index, error in failed:
            # neither prompt nor answer is in it
            logger.error("the engine failed a request, which ends: %r", error)
            ticket = self._ticket(index)
            with self._changed:
                self._free(index)
                self._slots[index].held = ()
                self._counts.failed += 1
            self._tell(ticket, Event(finish="failed"))
        for index, _error in failed:
            # what is no number would spoil the sequences after it
            self._engine.clear(index)
        index = failed[0][0]
        before = [(s.ticket.last_token if s.ticket else 0, s.length) for s in self._slots[:index]]
        if not self._question.is_answered(self._engine, index, before):
            raise EngineError("the engine does not give the answers any more that it began with")
        logger.warning("the engine still gives the answers that it began with, and goes on")

    def _end_all(self, reason: FinishReason) -> None:
        with self._changed:
            left = [self._ticket(index) for index in sorted(self._busy)]
            left += self._waiting.remove(lambda _ticket: True)
            self._slots = [Slot() for _slot in self._slots]
            self._busy.clear()
        for ticket in left:
            self._tell(ticket, Event(finish=reason))
