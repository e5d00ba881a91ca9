"""Events from the scheduler's thread, delivered in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from deepseek_serving.generation.scheduler import Event


class EventQueue:
    """The events of one answer; read in the loop that made the bridge."""

    def __init__(self, bridge: EventBridge) -> None:
        self._bridge = bridge
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None

    def receive(self, event: Event) -> None:
        """Called from the scheduler's thread."""
        self._bridge.put(self, event)

    def deliver(self, event: Event) -> None:
        """The same, in the loop's thread."""
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Event]:
        """All events that have come, at least one."""
        if not self._events:
            self._waiter = self._bridge.loop.create_future()
            await self._waiter
        events, self._events = self._events, []
        return events


class EventBridge:
    """From the scheduler's thread into one loop: one wake-up for all events that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[EventQueue, Event]] = deque()
        self._woken = False

    def put(self, queue: EventQueue, event: Event) -> None:
        """Called from the scheduler's thread."""
        # looked at after the event is in, and cleared before events are taken out, so that none
        # is left behind
        self._events.append((queue, event))
        if not self._woken:
            self._woken = True
            # the loop is closed only when the process ends; nobody waits for the event then
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        # no more than there are now: others have work in the loop too
        for _event in range(len(self._events)):
            queue, event = self._events.popleft()
            queue.deliver(event)
