"""A service that stops: what has begun is answered, and what has not is given back or answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from counting_engine import Client, CountingEngine, let_go
from support import MODEL, serve_app
from waiting import PATIENCE, until

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import ClosedError, Event, Limits, Scheduler
from deepseek_serving.generation.tickets import Listener
from deepseek_serving.http.app import create_app
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What?"}],
    "max_tokens": 3,
    "temperature": 0,
}


def test_what_waits_is_returned_and_what_has_begun_goes_on() -> None:
    engine = CountingEngine(slots=1)
    scheduler = Scheduler(engine, Limits())
    scheduler.start()
    engine.held = True
    begun = Client(scheduler, [1], 4, may_return=True)
    until(lambda: engine.calls)
    waiting = Client(scheduler, [10], 4, may_return=True)
    answered = Client(scheduler, [20], 4)
    scheduler.drain()
    let_go(engine)
    assert waiting.wait() == "returned"
    assert waiting.tokens == []
    assert begun.wait() == "length"
    assert answered.wait() == "length"
    assert answered.tokens == [21, 22, 23, 24]
    assert waiting.ticket.started is None
    with pytest.raises(ClosedError):
        Client(scheduler, [1], 1)
    scheduler.stop()


def test_a_request_is_returned_whole_or_not_at_all() -> None:
    """One of its answers has begun: the gateway would have the other one given twice."""
    engine = CountingEngine(slots=1)
    scheduler = Scheduler(engine, Limits())
    scheduler.start()
    engine.held = True
    ends: list[Future[str]] = [Future(), Future()]
    request = Client(scheduler, [1], 4, may_return=True).ticket.request
    until(lambda: engine.calls)

    def listener(number: int) -> Listener:
        def listen(event: Event) -> None:
            if event.finish is not None:
                ends[number].set_result(event.finish)

        return listen

    first, _second = scheduler.submit_all([(request, listener(n)) for n in range(2)])
    # as if the first were in work
    first.started = 1.0
    scheduler.drain()
    let_go(engine)
    assert [end.result(PATIENCE) for end in ends] == ["length", "length"]
    scheduler.stop()


class Held(CountingEngine):
    """Waits in its next step as long as it is held."""

    def __init__(self) -> None:
        super().__init__(slots=1, max_len=200)
        self.entered = threading.Event()

    def prefill(self, slot: int, tokens: Any, start: int) -> Any:
        self.entered.set()
        return super().prefill(slot, [4], start)


@pytest.fixture(scope="module")
def tokenizer(graph: Path) -> ChatTokenizer:
    return ChatTokenizer(graph)


@pytest.fixture
def held(graph: Path, tokenizer: ChatTokenizer) -> Iterator[tuple[str, Held, Service]]:
    engine = Held()
    scheduler = Scheduler(engine, Limits())
    service = Service(Release(MODEL, "1", "0" * 64, graph), scheduler, tokenizer)
    scheduler.start()
    engine.held = True
    with serve_app(create_app(service)) as url:
        yield f"{url}/v1/chat/completions", engine, service
        engine.held = False
        engine.gate.release(1000)


@pytest.mark.parametrize("more", [{}, {"n": 2}])
def test_what_was_not_taken_has_a_status_of_its_own(
    held: tuple[str, Held, Service], more: dict[str, Any]
) -> None:
    url, engine, service = held

    def post(**changes: Any) -> httpx.Response:
        return httpx.post(url, json={**ASK, **changes}, timeout=PATIENCE)

    with ThreadPoolExecutor(3) as threads:
        begun = threads.submit(post)
        assert engine.entered.wait(PATIENCE)
        waiting = threads.submit(post, **more)
        until(lambda: service.scheduler.state().waiting == more.get("n", 1))
        stream = threads.submit(post, stream=True)
        until(lambda: service.scheduler.state().waiting == more.get("n", 1) + 1)
        service.drain()
        late = post()
        engine.held = False
        engine.gate.release(1000)
        assert begun.result(PATIENCE).status_code == 200
        for returned in (waiting.result(PATIENCE), late):
            assert returned.status_code == 425
            assert returned.json()["error"]["code"] == "not_taken"
            assert returned.headers["retry-after"] == "1"
        # its head was sent already, so it is answered to its end
        events = [line for line in stream.result(PATIENCE).text.splitlines() if line]
        assert events[-1] == "data: [DONE]"
        assert "error" not in json.loads(events[-2].removeprefix("data: "))


def test_an_engine_that_has_failed_gives_nothing_back(held: tuple[str, Held, Service]) -> None:
    """What it had taken is never sent again: 503, as before."""
    url, engine, service = held
    with ThreadPoolExecutor(2) as threads:
        begun = threads.submit(httpx.post, url, json=ASK, timeout=PATIENCE)
        assert engine.entered.wait(PATIENCE)
        engine.fail = True
        engine.held = False
        engine.gate.release(1000)
        assert begun.result(PATIENCE).status_code == 503
        until(lambda: service.failed)
        assert httpx.post(url, json=ASK, timeout=PATIENCE).status_code == 503
