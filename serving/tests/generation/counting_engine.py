"""An engine that counts and can be held, and those that wait for its answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from waiting import PATIENCE, until

from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.generation.scheduler import Event, Request, Scheduler, Ticket
from deepseek_serving.runtime import Candidates

GREEDY = Sampling(temperature=0)


class CountingEngine:
    """Answers every token with the next number; records its calls and can be held."""

    def __init__(self, slots: int, max_len: int = 1000) -> None:
        self.slots = slots
        self.max_len = max_len
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.gate = threading.Semaphore(0)
        self.held = False
        self.fail = False
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def clear(self, slot: int) -> None:
        self.calls.append(("clear", (slot,)))

    def _answer(self, tokens: Sequence[int]) -> Candidates:
        if self.held:
            self.gate.acquire()
        if self.fail:
            raise RuntimeError("the engine broke")
        best = np.array([[token + 1] for token in tokens], dtype=np.int64)
        return Candidates(np.zeros((len(tokens), 1), dtype=np.float32), best)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self.calls.append(("prefill", (slot, start, len(tokens))))
        return self._answer(tokens[-1:])

    def logits(self) -> npt.NDArray[np.float32]:
        raise AssertionError("nobody asked for the logits")

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        self.calls.append(("decode", tuple(lengths)))
        return self._answer(tokens)


class Client:
    """One request's listener."""

    def __init__(
        self,
        scheduler: Scheduler,
        prompt: Sequence[int],
        count: int,
        end: int | None = None,
        **more: Any,
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.tokens: list[int] = []
        ends = frozenset() if end is None else frozenset([end])
        request = Request(prompt, count, ends, **{"sampling": GREEDY, **more})
        self.ticket: Ticket = scheduler.submit(request, self.events.put)

    def wait(self) -> str:
        """Read to the end; the reason for which it came."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if event.token is not None:
                self.tokens.append(event.token)
            if event.finish is not None:
                return event.finish


def hold(engine: CountingEngine, scheduler: Scheduler) -> list[Client]:
    """Fill both slots with requests that go on until the gate opens."""
    engine.held = True
    clients = [Client(scheduler, [n], 900, key="first") for n in range(2)]

    def both_have_a_slot() -> bool:
        engine.gate.release()
        return scheduler.state().busy == 2

    until(both_have_a_slot)
    return clients


def let_go(engine: CountingEngine) -> None:
    engine.held = False
    engine.gate.release(100000)
