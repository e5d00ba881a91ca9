"""Clients that hang up: what ends then, and what is answered to nobody."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import Response

from deepseek_serving.http.answers import Answers

# a shorter answer is there before it would pay to look whether somebody waits for it
LOOK_SECONDS = 0.05


def left() -> Response:
    """For a client that is gone: nobody reads it; 499 is what the logs of proxies call this."""
    return Response(status_code=499)


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Watch:
    """Abandons the answers when the client hangs up, while they are being made."""

    def __init__(self, answers: Answers, request: Request) -> None:
        self._answers = answers
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._begin)
        self.gone = False

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        await disconnected(self._request)
        self.gone = True
        self._answers.abandon()

    def close(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            # what it was cancelled with would keep it, and it this
            self._task = None
