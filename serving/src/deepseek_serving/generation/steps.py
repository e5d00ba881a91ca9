"""One step of the engine: chunks of prompts within a budget of tokens, and a token for every slot.

A long prompt delays the others by one step's budget at a time, never by all of it. Prompts are read
in chunks that begin at multiples of the chunk's size, whatever the load is and whatever a slot
holds already. The same prompt is thus computed in the same pieces every time, and what a slot keeps
of an earlier prompt is bit for bit what reading it again would give.

A prompt whose tokens are to be scored is read by its first token alone, and the others are decoded
as if they had been chosen, since engines give the logits of a step's last token only. It costs its
slot as many steps as an answer of that length, and others no more than such an answer does.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError, library_error
from deepseek_serving.generation.batch import Batch
from deepseek_serving.generation.probabilities import scored
from deepseek_serving.generation.sampling import SamplingError
from deepseek_serving.generation.tickets import Counts, Event, Limits, Ticket
from deepseek_serving.runtime import Candidates, Engine
from deepseek_serving.runtime.question import Question

logger = logging.getLogger(__name__)

# However many others there are, a long prompt gets one part of the engine's time to their four.
MOST_OTHERS = 4
# seconds that a step waits for what may come next in it, or as long as the step took
LEAST_WAIT = 0.002


class Steps:
    """What the scheduler's thread does with the engine; `changed` is the scheduler's lock."""

    def __init__(
        self,
        engine: Engine,
        batch: Batch,
        counts: Counts,
        limits: Limits,
        changed: threading.Condition,
        clock: Callable[[], float],
        question: Question | None,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._counts = counts
        self._chunk = limits.prefill_chunk
        self._budget = limits.step_tokens or self._chunk
        self._changed = changed
        self._clock = clock
        self._question = question
        self._turn = 0
        # seconds of the engine that others are to have before the next chunk of a long prompt
        self._owed = 0.0
        self._took = 0.0  # seconds of the last chunk

    def begin(self, ticket: Ticket) -> None:
        """Find out what may come next in a sequence."""
        ticket.sampler.begin(self._wake)

    def _wake(self) -> None:
        """From the threads that find out what may come next."""
        with self._changed:
            self._changed.notify()

    def tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.listener(event)
        except Exception:
            logger.exception("a listener failed")
            ticket.cancelled = True

    def prefill_turn(self) -> None:
        """Chunks of prompts, as many as fit into the step beside decoding, and at least one.

        Long prompts get the share of the engine's time that their slots are of those in work, and
        no less than 1 in 1 + `MOST_OTHERS`: what is short, and what is being answered, goes on at
        about the speed that it would have beside so many short ones.
        """
        batch = self._batch
        left = self._budget - batch.past_prompt()
        long_too = self._owed <= 0 or not batch.long_and_other()[1]
        begun = False
        while (index := batch.next_prefill(self._turn, long_too=long_too)) is not None:
            ticket = batch.ticket(index)
            chunk = ticket.request.head[ticket.read : ticket.read + self._chunk]
            if begun and len(chunk) > left:
                return
            begun = True
            left -= len(chunk)
            try:
                candidates = self._read_chunk(index, ticket, chunk)
            except BaseException as error:
                self._recover([(index, library_error("the engine", error))])
                continue
            if ticket.left:
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
        if self._batch.is_long(index):
            self._turn = index + 1
            long, others = self._batch.long_and_other()
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
        for index in sorted(self._batch.busy):
            ticket = self._batch.ticket(index)
            if ticket.left or not ticket.chosen:
                continue
            if ticket.sampler.complete:
                self._end(index, Event(finish="stop"))
            elif ticket.full and ticket.sampler.wait(0):
                self._end(index, Event(finish="length"))

    def decode_turn(self) -> None:
        """One token for every slot past its prompt, up to the last such slot."""
        self._end_known()
        ready = self._batch.ready()
        if not ready:
            return
        began = self._clock()
        try:
            candidates = self._engine.decode(*self._batch.written(ready[-1] + 1))
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
        rows = [(i, i) for i in ready if self._in_time(self._batch.ticket(i), until)]
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
        ticket = self._batch.ticket(index)
        request = ticket.request
        if (token := ticket.scored_next) is not None:
            ticket.score(scored(logits()[row], token, request.score or 0))
            if ticket.scored_next is not None or request.max_tokens:
                return
        if not request.max_tokens:
            self._end(index, Event(finish="length", scores=ticket.take_scores()))
            return
        if ticket.chosen and ticket.sampler.complete:
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
        ticket.chosen += 1
        finish = ticket.finish(choice.token, self._engine.max_len)
        is_end = choice.token in request.end_tokens
        event = Event(choice, finish, is_end, ticket.take_scores())
        if finish == "length" and request.constraint is not None:
            # whether it is complete as well is not known yet
            event, ticket.full, ticket.late = Event(choice, scores=event.scores), True, True
            finish = None
        if finish is not None:
            self._end(index, event)
        else:
            self.begin(ticket)
            self.tell(ticket, event)

    def _end(self, index: int, event: Event) -> None:
        with self._changed:
            ticket = self._batch.release(index)
        self.tell(ticket, event)

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
            with self._changed:
                ticket = self._batch.release(index)
                self._batch.slots[index].held = ()
                self._counts.failed += 1
            self.tell(ticket, Event(finish="failed"))
        for index, _error in failed:
            # what is no number would spoil the sequences after it
            self._engine.clear(index)
        index = failed[0][0]
        before = list(zip(*self._batch.written(index), strict=True))
        if not self._question.is_answered(self._engine, index, before):
            raise EngineError("the engine does not give the answers any more that it began with")
        logger.warning("the engine still gives the answers that it began with, and goes on")
