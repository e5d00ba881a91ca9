"""Continuous batching: who gets a slot, when, and how it is given back."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from counting_engine import GREEDY, Client, CountingEngine, hold, let_go
from support import trained
from waiting import PATIENCE, until

from deepseek_serving.generation.scheduler import (
    ClosedError,
    Event,
    Limits,
    QueueFullError,
    Request,
    Scheduler,
)
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer


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
