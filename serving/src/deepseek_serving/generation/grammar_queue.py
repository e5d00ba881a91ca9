"""Which grammars the service may compile: asked of a process that can be killed, and remembered.

Trials are in two lanes. Nearly every schema takes milliseconds, so each is tried for a moment
first, several at once; one that takes longer waits for the slow lane, where there is one place and
what is spent there is counted against its key. So grammars made to be slow wait for each other,
and hardly at all do others wait for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepseek_serving.generation.fair import FairQueue

logger = logging.getLogger(__name__)

# processor seconds of a trial, in each lane
QUICK_SECONDS, SLOW_SECONDS = 0.1, 1.0
# trials at once, and those that may wait: in all, and of one key
QUICK_PLACES, SLOW_PLACES = 2, 1
QUICK_QUEUE, SLOW_QUEUE = 64, 8
QUICK_QUEUE_PER_KEY, SLOW_QUEUE_PER_KEY = 32, 4
# processor seconds in the slow lane that a key may have used, and what it gets back in a second
ALLOWANCE_SECONDS, REFILL = 10.0, 0.1
# grammars whose outcome is remembered
REMEMBERED = 1024
STOP_SECONDS = 5


class TrialsBusyError(Exception):
    """Too many grammars wait, or the key has used up its time for slow ones."""


class TrialsEndedError(Exception):
    """The process that tries grammars is gone; another one is started for the next request."""


@dataclass(frozen=True)
class Outcome:
    """What is wrong with a grammar, or None; processor seconds that compiling it takes."""

    wrong: str | None
    seconds: float

    @property
    def slow(self) -> bool:
        return self.seconds > QUICK_SECONDS


@dataclass(eq=False)
class Trial:
    """A grammar on its way."""

    key: str
    grammar: str
    digest: bytes
    result: Future[Outcome] = field(default_factory=Future)
    slow: bool = False
    number: int | None = None

    def settle(self, outcome: Outcome) -> None:
        with contextlib.suppress(InvalidStateError):
            self.result.set_result(outcome)

    def fail(self, error: Exception) -> None:
        with contextlib.suppress(InvalidStateError):
            self.result.set_exception(error)


class _Lane:
    """So many at once, and a bounded queue in which keys take turns."""

    def __init__(self, places: int, queue: int, queue_per_key: int) -> None:
        self.places, self._queue, self._per_key = places, queue, queue_per_key
        self.busy = 0
        self.waiting: FairQueue[Trial] = FairQueue()

    def push(self, trial: Trial) -> None:
        full = len(self.waiting) >= self._queue
        if full or self.waiting.waiting(trial.key) >= self._per_key:
            raise TrialsBusyError
        self.waiting.push(trial.key, trial)


class _Accounts:
    """Seconds that the keys have used, which are forgotten with time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._used: dict[str, tuple[float, float]] = {}

    def used(self, key: str) -> float:
        seconds, then = self._used.get(key, (0.0, 0.0))
        return max(0.0, seconds - REFILL * (self._clock() - then))

    def add(self, key: str, seconds: float) -> None:
        self._used[key] = self.used(key) + seconds, self._clock()
        # those who owe nothing any more need no entry
        for name in [name for name in self._used if name != key and not self.used(name)]:
            del self._used[name]


class Trials:
    """Grammars that are compiled in another process first; safe to call from any thread.

    Nothing waits: a thread of its own starts the process and writes to it, another one listens.
    """

    def __init__(
        self,
        tokenizer: Path,
        vocabulary: int,
        end_tokens: Collection[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        arguments = [str(tokenizer), str(vocabulary), *map(str, sorted(end_tokens))]
        self._command = [
            sys.executable,
            "-m",
            "deepseek_serving.generation.grammar_trial",
            *arguments,
        ]
        self._changed = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        # what is to be written; None ends the thread
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._closed = False
        self._numbers = itertools.count()
        self._running: dict[int, Trial] = {}
        self._quick = _Lane(QUICK_PLACES, QUICK_QUEUE, QUICK_QUEUE_PER_KEY)
        self._slow = _Lane(SLOW_PLACES, SLOW_QUEUE, SLOW_QUEUE_PER_KEY)
        self._accounts = _Accounts(clock)
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()

    def submit(self, grammar: str, key: str) -> Trial:
        """Ask what is wrong with a grammar. Raises TrialsBusyError."""
        trial = Trial(key, grammar, hashlib.sha256(grammar.encode()).digest())
        with self._changed:
            if trial.digest in self._known:
                self._again(trial)
            elif self._closed:
                trial.fail(TrialsEndedError())
            else:
                self._quick.push(trial)
                self._next()
        return trial

    def _again(self, trial: Trial) -> None:
        """One whose outcome is known; where it is compiled again, that counts too."""
        self._known.move_to_end(trial.digest)
        outcome = self._known[trial.digest]
        if outcome.wrong is None and outcome.slow:
            if self._accounts.used(trial.key) > ALLOWANCE_SECONDS:
                raise TrialsBusyError
            self._accounts.add(trial.key, outcome.seconds)
        trial.settle(outcome)

    def cancel(self, trial: Trial) -> None:
        """Nobody wants to know any more: what it takes ends at once."""
        with self._changed:
            trial.result.cancel()
            for lane in (self._quick, self._slow):
                lane.waiting.remove(lambda waiting: waiting is trial)
            if trial.number is not None:
                self._send({"cancel": trial.number})

    def start(self) -> None:
        """Load the tokenizer there, so that the first trial need not wait for it."""
        with self._changed:
            self._send({"cancel": -1})

    def close(self) -> None:
        with self._changed:
            self._closed = True
            writer, process = self._writer, self._process
        self._orders.put(None)
        if writer is not None:
            writer.join(STOP_SECONDS)
        if process is not None:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _next(self) -> None:
        """Fill the places of both lanes."""
        for lane in (self._quick, self._slow):
            while lane.waiting and lane.busy < lane.places:
                _key, trial = lane.waiting.pop()
                trial.number = next(self._numbers)
                self._running[trial.number] = trial
                lane.busy += 1
                seconds = SLOW_SECONDS if trial.slow else QUICK_SECONDS
                self._send({"number": trial.number, "grammar": trial.grammar, "seconds": seconds})

    def _send(self, order: dict[str, Any]) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="trials", daemon=True)
            self._writer.start()
        self._orders.put(order)

    def _write(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                process = self._started()
            except OSError as error:
                logger.error("no grammar can be tried: %s", error)
                with self._changed:
                    self._lost()
                continue
            assert process.stdin is not None
            # one that has ended is noticed by the thread that listens to it, which says so
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(json.dumps(order).encode("ascii") + b"\n")
                process.stdin.flush()
        with self._changed:
            last = self._process
        if last is not None and last.stdin is not None:
            # it ends when nobody is left to ask
            with contextlib.suppress(OSError):
                last.stdin.close()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._changed:
            process = self._process
        if process is None:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            with self._changed:
                self._process = process
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                answer = json.loads(line)
                with self._changed:
                    self._take(answer)
                    self._next()
        status = process.wait()
        with self._changed:
            self._process = None
            if not self._closed:
                logger.error("the process that tries grammars ended with status %d", status)
            self._lost()
            self._next()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _lost(self) -> None:
        """What ran is lost with its process; nobody knows whether it was the reason."""
        for trial in list(self._running.values()):
            self._leave(trial)
            trial.fail(TrialsEndedError())
        if self._closed:
            for lane in (self._quick, self._slow):
                for trial in lane.waiting.remove(lambda _trial: True):
                    trial.fail(TrialsEndedError())

    def _leave(self, trial: Trial) -> None:
        assert trial.number is not None
        del self._running[trial.number]
        trial.number = None
        (self._slow if trial.slow else self._quick).busy -= 1

    def _take(self, answer: dict[str, Any]) -> None:
        trial = self._running.get(answer["number"])
        if trial is None:
            # given up when the process before this one ended
            return
        self._leave(trial)
        if trial.slow:
            self._accounts.add(trial.key, answer["seconds"])
        if trial.result.cancelled():
            return
        if answer.get("late") and not trial.slow:
            self._try_longer(trial)
            return
        outcome = Outcome(answer["error"], answer["compile"])
        self._known[trial.digest] = outcome
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        trial.settle(outcome)

    def _try_longer(self, trial: Trial) -> None:
        trial.slow = True
        if self._accounts.used(trial.key) > ALLOWANCE_SECONDS:
            trial.fail(TrialsBusyError())
            return
        try:
            self._slow.push(trial)
        except TrialsBusyError as error:
            trial.fail(error)
