"""Answers that must be JSON: llguidance says which tokens may come next.

llguidance interprets its grammars and compiles nothing to machine code, so it works where the
sandbox forbids memory that is both writable and executable.

Nothing of it runs in the scheduler's thread or in the event loop. A grammar is judged by its text
(`grammar_cost`), tried in a process that can be killed (`grammar_queue`), and compiled in a few
threads of the service. In others the masks are computed, while the engine is in its step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from deepseek_serving.errors import TokenizerError, library_error
from deepseek_serving.generation.grammar_cost import SchemaError
from deepseek_serving.generation.grammar_queue import Outcome, Trials
from deepseek_serving.generation.grammar_text import GrammarWriter, Wanted
from deepseek_serving.generation.grammar_trial import compiled, complaint
from deepseek_serving.generation.grammar_vocabulary import open_vocabulary
from deepseek_serving.generation.request import Format
from deepseek_serving.generation.sampling import SamplingError

# that compute masks: they run beside the engine's own
THREADS = 2
# processor seconds that an answer's masks may take: at once, and for each token
MASK_SECONDS, MASK_SECONDS_PER_TOKEN = 1.0, 0.005

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Thoughts:
    """Thoughts before what a grammar holds, by the numbers of tokens.

    They are free, up to their `end`. `begin` may begin them; None where the prompt has. One of
    `breaks` may part them from what follows.
    """

    end: int
    begin: int | None = None
    breaks: frozenset[int] = frozenset()


class Grammar:
    """What an answer must look like; each answer follows a copy of its own."""

    def __init__(
        self, template: LLMatcher, thoughts: Thoughts | None, threads: ThreadPoolExecutor
    ) -> None:
        self._template = template
        self._thoughts = thoughts
        self._threads = threads

    def constraint(self) -> MatcherConstraint:
        return MatcherConstraint(self._template, self._thoughts, self._threads)


class MatcherConstraint:
    """One answer's way through a grammar, from its beginning or from the end of its thoughts on.

    One thread calls it; what takes time is done in others.
    """

    def __init__(
        self, template: LLMatcher, thoughts: Thoughts | None, threads: ThreadPoolExecutor
    ) -> None:
        self._template = template
        self._thoughts = thoughts
        self._free = thoughts is not None and thoughts.begin is None
        # tokens that may come in front of what the grammar holds, once
        self._before: frozenset[int] = frozenset()
        if thoughts is not None and thoughts.begin is not None:
            self._before = frozenset((thoughts.begin,))
        self._threads = threads
        self._matcher: LLMatcher | None = None
        self._mask: Future[Mask | None] | None = None
        # tokens that the matcher has not been told of
        self._said: list[int] = []
        self._spent, self._steps = 0.0, 0

    def begin(self, wake: Callable[[], None]) -> None:
        """Have the next mask computed; `wake` is called, from another thread, when it is there."""
        if not self._free and self._mask is None:
            self._mask = self._threads.submit(self._compute)
            self._mask.add_done_callback(lambda _mask: wake())

    def wait(self, seconds: float) -> bool:
        """Whether the next mask is there, at the latest after so long."""
        if self._free:
            return True
        if self._mask is None:
            return False
        if seconds > 0 and not self._mask.done():
            arrived = threading.Event()
            self._mask.add_done_callback(lambda _mask: arrived.set())
            arrived.wait(seconds)
        return self._mask.done()

    @property
    def complete(self) -> bool:
        """Nothing may follow, as far as is known by now."""
        mask = self._mask
        if mask is None or not mask.done() or mask.exception() is not None:
            return False
        return mask.result() is None

    def allowed(self) -> Mask | None:
        """Which tokens may come next; only when the mask is there.

        Raises SamplingError when the grammar asks for more work than a step may take.
        """
        if self._free:
            return None
        assert self._mask is not None
        allowed = self._mask.result(timeout=0)
        if allowed is None:
            raise SamplingError("the grammar: nothing may follow")
        if self._before:
            allowed = allowed.copy()
            allowed[list(self._before)] = True
        return allowed

    def accept(self, token: int) -> None:
        thoughts = self._thoughts
        if self._free:
            assert thoughts is not None
            if token == thoughts.end:
                self._free, self._before = False, thoughts.breaks
            return
        if token in self._before:
            # the mask for what comes first may be there, and is for what follows
            self._free = thoughts is not None and token == thoughts.begin
        else:
            self._said.append(token)
            self._mask = None
        self._before = frozenset()

    def _compute(self) -> Mask | None:
        """None where nothing may follow."""
        began = time.thread_time()
        try:
            return self._next_mask()
        except SamplingError:
            raise
        except BaseException as error:
            raise library_error("llguidance", error) from error
        finally:
            self._spent += time.thread_time() - began
            self._steps += 1

    def _next_mask(self) -> Mask | None:
        if self._spent > MASK_SECONDS + self._steps * MASK_SECONDS_PER_TOKEN:
            raise SamplingError("the grammar: its masks take longer than an answer may take")
        if self._matcher is None:
            self._matcher = self._template.deep_copy()
        matcher = self._matcher
        for token in self._said:
            matcher.consume_token(token)
        self._said = []
        if matcher.is_stopped() and not matcher.is_error():
            return None
        bits = matcher.compute_bitmask()
        if matcher.is_error():
            raise SamplingError(f"the grammar: {matcher.stop_reason()}")
        mask = np.frombuffer(bits, dtype=np.uint8)
        return np.unpackbits(mask, bitorder="little").astype(np.bool_)


class Grammars:
    """Makes grammars over one tokenizer's vocabulary."""

    def __init__(self, directory: Path, vocabulary: int, end_tokens: Collection[int]) -> None:
        path = directory / "tokenizer.json"
        try:
            self._vocabulary = open_vocabulary(path, vocabulary, sorted(end_tokens))
        except BaseException as error:
            raise TokenizerError(
                f"{path}: llguidance cannot read it, so that no answer could be held to a "
                f"grammar: {library_error('llguidance', error)}"
            ) from error
        self.writer = GrammarWriter(self._vocabulary.marks)
        self._trials = Trials(path, vocabulary, end_tokens)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mask")
        # so that what is quick does not wait for what is slow
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="slow-grammar")

    def start(self) -> None:
        """Get ready for the first grammar."""
        self._trials.start()

    def close(self) -> None:
        self._trials.close()
        for threads in (self._quick, self._slow, self._threads):
            threads.shutdown(cancel_futures=True)

    def token_bytes(self, token: int) -> bytes:
        """The token's part of the text; it may be less than a character."""
        try:
            return self._vocabulary.bytes(token)
        except BaseException as error:
            raise library_error("llguidance", error) from error

    def json(self, schema: Mapping[str, Any]) -> str:
        """The grammar of text that the schema accepts. Raises SchemaError."""
        return self.writer.write(Wanted(format=Format("json", schema)))

    async def compile(self, grammar: str, thoughts: Thoughts | None, key: str) -> Grammar:
        """Compile a grammar for one request.

        Copies of what is compiled share the states that llguidance finds on the way, and their
        limit, so that it is not kept for the next one.

        Raises SchemaError, TrialsBusyError or TrialsEndedError. A caller that is cancelled ends
        the trial.
        """
        outcome = await self._try(grammar, key)
        if outcome.wrong is not None:
            raise SchemaError(outcome.wrong)
        loop = asyncio.get_running_loop()
        thread = self._slow if outcome.slow else self._quick
        template = await loop.run_in_executor(thread, self._compiled, grammar)
        return Grammar(template, thoughts, self._threads)

    async def _try(self, grammar: str, key: str) -> Outcome:
        trial = self._trials.submit(grammar, key)
        try:
            return await asyncio.wrap_future(trial.result)
        finally:
            if not trial.result.done() or trial.result.cancelled():
                self._trials.cancel(trial)

    def _compiled(self, grammar: str) -> LLMatcher:
        try:
            matcher = compiled(self._vocabulary.tokenizer, grammar)
            wrong = complaint(matcher)
        except BaseException as error:
            raise SchemaError(str(library_error("llguidance", error))) from error
        if wrong is not None:
            raise SchemaError(wrong)
        return matcher
