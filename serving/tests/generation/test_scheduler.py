"""Continuous batching: who gets a slot, when, and how it is given back."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import trained
from waiting import PATIENCE, until

from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.generation.scheduler import (
    ClosedError,
    Event,
    Limits,
    QueueFullError,
    Request,
    Scheduler,
    Ticket,
)
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

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


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(slots=2)


@pytest.fixture
def scheduler(engine: CountingEngine) -> Iterator[Scheduler]:
    scheduler = Scheduler(engine, Limits(queue=3, prefill_chunk=4))
    scheduler.start()
    yield scheduler
    engine.held = False
    engine.gate.release(10000)
    scheduler.stop()


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
    engine: CountingEngine,
) -> None:
    # where nothing takes time, nobody is owed any
    scheduler = Scheduler(engine, Limits(prefill_chunk=4), clock=lambda: 0.0)
    scheduler.start()
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
    scheduler.stop()


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


class TimedEngine(CountingEngine):
    """Each token takes a second of its own clock."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.now = 0.0

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self.now += len(tokens)
        return super().prefill(slot, tokens, start)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        self.now += len(tokens)
        return super().decode(tokens, lengths)


def timed(slots: int) -> tuple[TimedEngine, Scheduler]:
    engine = TimedEngine(slots)
    scheduler = Scheduler(engine, Limits(prefill_chunk=4, queue=99), lambda: engine.now)
    scheduler.start()
    engine.held = True
    return engine, scheduler


def test_short_prompts_wait_for_little_of_the_long_ones() -> None:
    engine, scheduler = timed(slots=4)
    clients = [Client(scheduler, list(range(40)), 1) for _number in range(2)]
    until(lambda: engine.calls)
    clients += [Client(scheduler, [1, 2, 3], 1) for _number in range(2)]
    let_go(engine)
    assert {client.wait() for client in clients} == {"length"}
    order = [n[0] for kind, n in engine.calls if kind == "prefill"]
    assert order[:6] == [0, 1, 2, 3, 0, 1]
    scheduler.stop()


def test_a_long_prompt_has_its_share_of_the_time_beside_any_number_of_short_ones() -> None:
    engine, scheduler = timed(slots=2)
    long = Client(scheduler, list(range(40)), 1)
    until(lambda: engine.calls)
    short = [Client(scheduler, [1, 2, 3], 1) for _number in range(60)]
    let_go(engine)
    assert {client.wait() for client in (long, *short)} == {"length"}
    order = [n[0] for kind, n in engine.calls if kind == "prefill"]
    # 4 seconds of one slot, then at least 4 of the other
    chunks = [place for place, slot in enumerate(order) if slot == 0][1:9]
    assert [after - before for before, after in itertools.pairwise(chunks)] == [3] * 7
    scheduler.stop()


def test_many_answers_do_not_starve_a_long_prompt() -> None:
    engine, scheduler = timed(slots=9)
    answers = [Client(scheduler, [1], 300) for _number in range(8)]
    until(lambda: engine.calls)
    long = Client(scheduler, list(range(40)), 1)
    let_go(engine)
    assert {client.wait() for client in (long, *answers)} == {"length"}
    kinds = [kind for kind, sizes in engine.calls if kind == "decode" or sizes[0] == 8]
    first, last = kinds.index("prefill"), len(kinds) - kinds[::-1].index("prefill")
    # 9 chunks of 4 seconds, and 4 times as long for decode steps of 8 or 9 seconds each
    assert 16 <= kinds[first:last].count("decode") <= 20
    scheduler.stop()


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
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=2, slots=3), Limits(prefill_chunk=5))
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


def test_keys_take_turns(engine: CountingEngine) -> None:
    scheduler = Scheduler(engine, Limits(queue=20))
    scheduler.start()
    clients = hold(engine, scheduler)
    busy = [Client(scheduler, [100], 2, key="busy") for _number in range(6)]
    rare = Client(scheduler, [200], 2, key="rare")
    let_go(engine)
    for client in [*clients, *busy, rare]:
        assert client.wait() == "length"
    later = [client for client in busy if (client.ticket.started or 0) > (rare.ticket.started or 0)]
    assert len(later) >= 4
    scheduler.stop()


def test_a_key_may_not_fill_the_queue(engine: CountingEngine) -> None:
    scheduler = Scheduler(engine, Limits(queue=3, queue_per_key=1))
    scheduler.start()
    clients = hold(engine, scheduler)
    clients += [Client(scheduler, [5], 2, key="one")]
    with pytest.raises(QueueFullError) as caught:
        Client(scheduler, [6], 2, key="one")
    assert caught.value.of_key
    clients += [Client(scheduler, [7], 2, key="two"), Client(scheduler, [8], 2, key="three")]
    with pytest.raises(QueueFullError) as caught:
        Client(scheduler, [9], 2, key="four")
    assert not caught.value.of_key
    let_go(engine)
    assert {client.wait() for client in clients} == {"length"}
    scheduler.stop()


def test_requests_are_queued_together_or_not_at_all(
    engine: CountingEngine, scheduler: Scheduler
) -> None:
    clients = hold(engine, scheduler)
    events: queue.Queue[Event] = queue.Queue()
    with pytest.raises(QueueFullError):
        scheduler.submit_all([(Request([1], 2), events.put)] * 4)
    assert scheduler.state().waiting == 0
    scheduler.submit_all([(Request([1], 1, sampling=GREEDY), events.put)] * 3)
    let_go(engine)
    assert {client.wait() for client in clients} == {"length"}
    assert [events.get(timeout=PATIENCE).finish for _request in range(3)] == ["length"] * 3


def test_what_is_late_ends_wherever_it_is(engine: CountingEngine, scheduler: Scheduler) -> None:
    clients = hold(engine, scheduler)
    waiting = Client(scheduler, [50], 3, timeout=0.05)
    time.sleep(0.06)
    let_go(engine)
    assert waiting.wait() == "timeout"
    assert waiting.tokens == []
    assert {client.wait() for client in clients} == {"length"}
    engine.gate = threading.Semaphore(2)
    engine.held = True
    # enough for its first tokens
    seconds = 1
    running = Client(scheduler, [1], 900, timeout=seconds)
    time.sleep(seconds + 0.1)
    let_go(engine)
    assert running.wait() == "timeout"
    assert 0 < len(running.tokens) < 900
    until(lambda: scheduler.state().busy == 0)


@pytest.mark.parametrize(
    ("step_tokens", "chunks_per_step"), [(None, 1), (4, 1), (8, 1), (9, 2), (13, 3)]
)
def test_a_step_reads_as_much_as_its_budget_allows(
    step_tokens: int | None, chunks_per_step: int
) -> None:
    """One slot decodes, so that is what is left of the budget; one chunk is always read."""
    engine = CountingEngine(slots=5)
    limits = Limits(prefill_chunk=4, step_tokens=step_tokens, queue=9)
    scheduler = Scheduler(engine, limits, clock=lambda: 0.0)
    scheduler.start()
    engine.held = True
    clients = [Client(scheduler, [1], 200)]
    until(lambda: engine.calls)
    clients += [Client(scheduler, list(range(24)), 1) for _number in range(4)]
    let_go(engine)
    assert {client.wait() for client in clients} == {"length"}
    kinds = [kind for kind, _sizes in engine.calls[1:]]
    runs = [len(list(run)) for kind, run in itertools.groupby(kinds) if kind == "prefill"]
    assert sum(runs) == 24
    assert set(runs) == {chunks_per_step}
    scheduler.stop()


class RememberingEngine:
    """A cache of tokens; the next one depends on all that the cache holds of its sequence."""

    def __init__(self, slots: int, max_len: int) -> None:
        self.slots = slots
        self.max_len = max_len
        self.read = 0
        self.reset()

    def reset(self) -> None:
        self.cache = np.full((self.slots, self.max_len), -1, dtype=np.int64)

    def clear(self, slot: int) -> None:
        self.cache[slot] = -1

    def _next(self, slot: int, length: int) -> int:
        held = self.cache[slot, :length]
        assert (held >= 0).all(), "read before it was written"
        return int(np.dot(held, np.arange(1, length + 1)) % 97)

    def _candidates(self, tokens: list[int]) -> Candidates:
        best = np.array(tokens, dtype=np.int64)[:, None]
        return Candidates(np.zeros_like(best, dtype=np.float32), best)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self.read += len(tokens)
        self.cache[slot, start : start + len(tokens)] = tokens
        return self._candidates([self._next(slot, start + len(tokens))])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        best = []
        for slot, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.cache[slot, length] = token
            whole = (self.cache[slot, : length + 1] >= 0).all()
            best.append(self._next(slot, length + 1) if whole else 0)
        return self._candidates(best)

    def logits(self) -> npt.NDArray[np.float32]:
        raise AssertionError("nobody asked for the logits")


def alone(prompt: Sequence[int], count: int, max_len: int) -> list[int]:
    """What the engine answers to a request that has it to itself."""
    engine = RememberingEngine(1, max_len)
    tokens = [int(engine.prefill(0, prompt, 0).tokens[0, 0])]
    while len(tokens) < count and len(prompt) + len(tokens) < max_len:
        answer = engine.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])
        tokens.append(int(answer.tokens[0, 0]))
    return tokens


# prompts that share beginnings, of lengths on both sides of the chunk's
prompts = st.builds(
    lambda head, count, tail: [head] * count + tail,
    st.integers(0, 1),
    st.integers(1, 14),
    st.lists(st.integers(2, 3), max_size=4),
)
asked = st.tuples(prompts, st.integers(1, 6), st.sampled_from(["one", "two"]), st.booleans())


@settings(max_examples=60)
@given(
    requests=st.lists(asked, min_size=1, max_size=12),
    slots=st.integers(1, 3),
    chunk=st.integers(1, 5),
    step_tokens=st.none() | st.integers(1, 12),
    idle=st.sampled_from([0.0, 60.0]),
)
def test_reused_prompts_never_change_an_answer(
    requests: list[tuple[list[int], int, str, bool]],
    slots: int,
    chunk: int,
    step_tokens: int | None,
    idle: float,
) -> None:
    """Whatever comes, in whatever order, together or one after the other, or is cancelled."""
    engine = RememberingEngine(slots, 24)
    limits = Limits(20, prefill_chunk=chunk, step_tokens=step_tokens, idle_seconds=idle)
    scheduler = Scheduler(engine, limits)
    scheduler.start()
    clients = []
    for number, (prompt, count, key, together) in enumerate(requests):
        client = Client(scheduler, prompt, count, key=key)
        if number % 4 == 3:
            scheduler.cancel(client.ticket)
        elif not together:
            client.wait()
        clients.append(client)
    for number, (client, (prompt, count, _key, together)) in enumerate(
        zip(clients, requests, strict=True)
    ):
        expected = alone(prompt, count, 24)
        if number % 4 == 3:
            client.wait()
            assert client.tokens == expected[: len(client.tokens)]
        else:
            assert not together or client.wait() == "length"
            assert client.tokens == expected
    state = scheduler.state()
    assert state.prompts <= len(requests)
    scheduler.stop()


def test_a_shared_beginning_is_read_once(engine: CountingEngine) -> None:
    remembering = RememberingEngine(2, 100)
    scheduler = Scheduler(remembering, Limits(prefill_chunk=4))
    scheduler.start()

    def ask(tail: int, key: str) -> Ticket:
        client = Client(scheduler, [*range(10), tail], 3, key=key)
        assert client.wait() == "length"
        assert client.tokens == alone([*range(10), tail], 3, 100)
        return client.ticket

    assert ask(20, "one").reused == 0
    # whole chunks of the same tokens
    assert ask(30, "one").reused == 8
    # another key must not learn from the time it takes what the first one asks
    assert ask(30, "two").reused == 0
    assert remembering.read == 11 + 3 + 11
    state = scheduler.state()
    assert (state.prompts, state.prompts_reused) == (3, 1)
    assert (state.prompt_tokens, state.prompt_tokens_reused) == (33, 8)
    scheduler.stop()


def test_an_idle_engine_forgets_prompts_in_the_end(engine: CountingEngine) -> None:
    scheduler = Scheduler(engine, Limits(prefill_chunk=4, idle_seconds=1))
    scheduler.start()
    until(lambda: engine.resets == 1)
    assert Client(scheduler, list(range(9)), 2).wait() == "length"
    until(lambda: scheduler.state().busy == 0)
    assert scheduler.state().cache_tokens == 8
    until(lambda: engine.resets == 2)
    assert scheduler.state().cache_tokens == 0
    scheduler.stop()


def sampled(
    graph: Path, prompts: Sequence[Sequence[int]], slots: int, limits: Limits, together: bool
) -> list[list[int]]:
    """Answers of the real engine, each with a seed of its own."""
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=2, slots=slots), limits)
    scheduler.start()
    clients = []
    for number, prompt in enumerate(prompts):
        sampling = Sampling(temperature=1.5, top_p=0.95, seed=number)
        clients.append(Client(scheduler, prompt, 40, end=2, sampling=sampling))
        if not together:
            clients[-1].wait()
    for client in clients:
        if together:
            client.wait()
    scheduler.stop()
    return [client.tokens for client in clients]


def test_a_seed_gives_the_same_answer_in_any_company(graph: Path) -> None:
    """Alone; with others in the batch; with a beginning that the slot holds already."""
    tokenizer = ChatTokenizer(graph)
    system = {"role": "system", "content": "You answer questions about this project, briefly."}
    prompts = [
        tokenizer.prompt([system, {"role": "user", "content": question}])
        for question, _answer in trained()[::40]
    ]
    limits = Limits(prefill_chunk=16)
    alone = Limits(prefill_chunk=16, idle_seconds=0)
    one_by_one = sampled(graph, prompts, 1, alone, together=False)
    # one after the other, each begins with what the slot holds of the one before
    assert sampled(graph, prompts, 1, limits, together=False) == one_by_one
    for slots, step_tokens in ((3, None), (4, 40)):
        company = Limits(prefill_chunk=16, step_tokens=step_tokens)
        assert sampled(graph, prompts, slots, company, together=True) == one_by_one
