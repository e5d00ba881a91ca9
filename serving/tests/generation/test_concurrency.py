"""Places, and the queue in front of them."""

from __future__ import annotations

import asyncio

import pytest

from deepseek_serving.generation.concurrency import ConcurrencyLimiter
from deepseek_serving.generation.scheduler import QueueFullError


async def _settled() -> None:
    for _turn in range(5):
        await asyncio.sleep(0)


def test_the_keys_take_turns() -> None:
    async def scenario() -> list[str]:
        gate, order = ConcurrencyLimiter(1, 10), []
        release = asyncio.Event()

        async def ask(key: str) -> None:
            async with gate.place(key):
                order.append(key)
                await release.wait()

        tasks = [asyncio.create_task(ask(key)) for key in ("a", "a", "a", "b")]
        await _settled()
        assert (gate.busy, gate.waiting) == (1, 3)
        release.set()
        await asyncio.gather(*tasks)
        assert (gate.busy, gate.waiting) == (0, 0)
        return order

    assert asyncio.run(scenario()) == ["a", "a", "b", "a"]


def test_the_line_is_bounded_in_all_and_for_each_key() -> None:
    async def scenario() -> None:
        gate = ConcurrencyLimiter(1, queue=2, queue_per_key=1)

        async def ask(key: str) -> None:
            async with gate.place(key):
                await asyncio.sleep(3600)

        tasks = [asyncio.create_task(ask(key)) for key in ("a", "a")]
        await _settled()
        with pytest.raises(QueueFullError) as refused:
            await ask("a")
        assert refused.value.of_key
        tasks.append(asyncio.create_task(ask("b")))
        await _settled()
        with pytest.raises(QueueFullError) as refused:
            await ask("c")
        assert not refused.value.of_key
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())


def test_who_leaves_the_line_is_passed_over() -> None:
    async def scenario() -> None:
        gate = ConcurrencyLimiter(1, 10)
        inside = gate.place("a")
        await inside.__aenter__()
        entered = []

        async def ask(key: str) -> None:
            async with gate.place(key):
                entered.append(key)

        leaving, staying = asyncio.create_task(ask("b")), asyncio.create_task(ask("c"))
        await _settled()
        leaving.cancel()
        await _settled()
        assert gate.waiting == 1
        await inside.__aexit__(None, None, None)
        await staying
        assert entered == ["c"]
        assert (gate.busy, gate.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_turn_that_comes_too_late_goes_to_the_next() -> None:
    async def scenario() -> None:
        gate = ConcurrencyLimiter(1, 10)
        inside = gate.place("a")
        await inside.__aenter__()
        entered = []

        async def ask(key: str) -> None:
            async with gate.place(key):
                entered.append(key)

        leaving, staying = asyncio.create_task(ask("b")), asyncio.create_task(ask("c"))
        await _settled()
        await inside.__aexit__(None, None, None)
        # it has its turn already, and has not run since
        leaving.cancel()
        await staying
        assert entered == ["c"]
        assert gate.busy == 0

    asyncio.run(scenario())
