"""Continuous batching: who gets a slot, when, and how it is given back."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support import trained

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.sampling import Sampling
from deepseek_serving.scheduler import (
    ClosedError,
    Event,
    QueueFullError,
    Request,
    Scheduler,
    Ticket,
)
from deepseek_serving.text import ChatTokenizer

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

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        self.calls.append(("decode", tuple(lengths)))
        return self._answer(tokens)

    def logits(self) -> npt.NDArray[np.float32]:
        raise EngineError("the graph has no output logits")


class Client:
    """One request's listener."""

    def __init__(
        self, scheduler: Scheduler, prompt: Sequence[int], count: int, end: int | None = None
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.tokens: list[int] = []
        ends = frozenset() if end is None else frozenset([end])
        request = Request(prompt, count, ends, GREEDY)
        self.ticket: Ticket = scheduler.submit(request, self.events.put)

    def wait(self) -> str:
        """Read to the end; the reason for which it came."""
        while True:
            event = self.events.get(timeout=10)
            if event.token is not None:
                self.tokens.append(event.token)
            if event.finish is not None:
                return event.finish


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(slots=2)


@pytest.fixture
def scheduler(engine: CountingEngine) -> Iterator[Scheduler]:
    scheduler = Scheduler(engine, queue=3, prefill_chunk=4)
    scheduler.start()
    yield scheduler
    engine.held = False
    engine.gate.release(10000)
    scheduler.stop()


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


def test_tokens_and_reasons(scheduler: Scheduler) -> None:
    cut = Client(scheduler, [10], 3)
    assert cut.wait() == "length"
    assert cut.tokens == [11, 12, 13]
    ended = Client(scheduler, [20], 9, end=22)
    assert ended.wait() == "stop"
    assert ended.tokens == [21, 22]


def test_the_cache_never_overflows(engine: CountingEngine, scheduler: Scheduler) -> None:
    engine.max_len = 8
    client = Client(scheduler, [1, 2, 3], 100)
    assert client.wait() == "length"
    assert len(client.tokens) == 5
    assert max(length for kind, n in engine.calls if kind == "decode" for length in n) < 8
    with pytest.raises(ValueError, match="does not fit"):
        Client(scheduler, list(range(8)), 1)


def test_more_requests_than_slots_all_finish(scheduler: Scheduler) -> None:
    clients = [Client(scheduler, [100 * n], 20) for n in range(4)]
    assert [client.wait() for client in clients] == ["length"] * 4
    for n, client in enumerate(clients):
        assert client.tokens == list(range(100 * n + 1, 100 * n + 21))


def test_those_that_wait_longest_come_first(engine: CountingEngine, scheduler: Scheduler) -> None:
    engine.held = True
    clients = [Client(scheduler, [100 * n], 5) for n in range(5)]
    engine.held = False
    engine.gate.release(10000)
    for client in clients:
        client.wait()
    started = [client.ticket.started or 0 for client in clients]
    assert started == sorted(started)


def test_a_long_prompt_is_read_in_chunks_between_which_others_decode(
    engine: CountingEngine, scheduler: Scheduler
) -> None:
    engine.held = True
    short = Client(scheduler, [1], 50)
    until(lambda: engine.calls)
    long = Client(scheduler, list(range(40)), 2)
    engine.held = False
    engine.gate.release(10000)
    short.wait()
    long.wait()
    assert long.tokens == [40, 41]
    chunks = [i for i, (kind, n) in enumerate(engine.calls) if kind == "prefill" and n[0] == 1]
    assert len(chunks) == 10
    for before, after in itertools.pairwise(chunks):
        assert [kind for kind, _size in engine.calls[before + 1 : after]] == ["decode"]
    # while it is read, its slot takes part in decoding no further than what has been read
    assert all(n[1] <= 40 for kind, n in engine.calls if kind == "decode" and len(n) == 2)


def test_two_long_prompts_take_turns(engine: CountingEngine, scheduler: Scheduler) -> None:
    engine.held = True
    clients = [Client(scheduler, list(range(20)), 1) for _number in range(2)]
    until(lambda: engine.calls)
    engine.held = False
    engine.gate.release(10000)
    for client in clients:
        client.wait()
    order = [n[0] for kind, n in engine.calls if kind == "prefill"]
    assert order == [0, 1] * 5


def test_the_queue_is_bounded(engine: CountingEngine, scheduler: Scheduler) -> None:
    engine.held = True
    clients = [Client(scheduler, [n], 500) for n in range(2)]

    def both_have_a_slot() -> bool:
        engine.gate.release()
        return scheduler.state().busy == 2

    until(both_have_a_slot)
    clients += [Client(scheduler, [n], 2) for n in range(3)]
    assert scheduler.state().waiting == 3
    with pytest.raises(QueueFullError):
        Client(scheduler, [1], 2)
    engine.held = False
    engine.gate.release(10000)
    assert [client.wait() for client in clients] == ["length"] * 5
    assert Client(scheduler, [1], 2).wait() == "length"


def test_cancelling_frees_the_slot_at_once(engine: CountingEngine, scheduler: Scheduler) -> None:
    endless = [Client(scheduler, [n], 900) for n in range(2)]
    waiting = Client(scheduler, [50], 3)
    never = Client(scheduler, [60], 3)
    scheduler.cancel(never.ticket)
    assert never.wait() == "cancelled"
    scheduler.cancel(endless[0].ticket)
    assert endless[0].wait() == "cancelled"
    assert waiting.wait() == "length"
    assert waiting.tokens == [51, 52, 53]
    scheduler.cancel(endless[1].ticket)
    scheduler.cancel(endless[1].ticket)
    assert endless[1].wait() in ("cancelled", "length")
    until(lambda: scheduler.state().busy == 0)


def test_cancelling_after_the_end_does_nothing(scheduler: Scheduler) -> None:
    client = Client(scheduler, [1], 2)
    assert client.wait() == "length"
    scheduler.cancel(client.ticket)
    assert Client(scheduler, [5], 2).wait() == "length"
    assert client.events.empty()


def test_an_engine_failure_ends_every_request_and_readiness(
    engine: CountingEngine, scheduler: Scheduler
) -> None:
    assert scheduler.healthy
    engine.held = True
    clients = [Client(scheduler, [n], 5) for n in range(4)]
    engine.fail = True
    engine.held = False
    engine.gate.release(10000)
    assert [client.wait() for client in clients] == ["error"] * 4
    until(lambda: not scheduler.healthy)
    with pytest.raises(ClosedError):
        Client(scheduler, [1], 1)


def test_an_idle_engine_may_forget(engine: CountingEngine, scheduler: Scheduler) -> None:
    until(lambda: engine.resets == 1)
    assert Client(scheduler, [1], 5).wait() == "length"
    until(lambda: engine.resets == 2)


def test_stopping_ends_what_runs(engine: CountingEngine) -> None:
    scheduler = Scheduler(engine)
    scheduler.start()
    client = Client(scheduler, [1], 900)
    scheduler.stop()
    assert client.wait() in ("cancelled", "length")
    assert not scheduler.healthy
    with pytest.raises(ClosedError):
        Client(scheduler, [1], 1)


def test_answers_do_not_depend_on_the_company(graph: Path) -> None:
    """The real engine: more questions than slots, prompts in small chunks, joining at any time."""
    tokenizer = ChatTokenizer(graph)
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=2, slots=3), prefill_chunk=5)
    scheduler.start()
    pairs = trained()[::9]
    clients = []
    for question, _answer in pairs:
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        clients.append(Client(scheduler, prompt, 64, end=2))
        time.sleep(0.003)
    for client, (_question, answer) in zip(clients, pairs, strict=True):
        assert client.wait() == "stop"
        stream = tokenizer.stream()
        assert "".join(stream.push(token) for token in client.tokens) == answer
    scheduler.stop()
