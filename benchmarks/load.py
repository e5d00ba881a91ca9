"""What the benchmarks of the service share: a server in a process of its own, and clients."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uvicorn
from starlette.types import ASGIApp

CHECKPOINT = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "checkpoint"
START_SECONDS = 60


@dataclass(frozen=True)
class Measure:
    """`ratio` is at least `goal` when the measure is good enough; None where none is set."""

    value: float
    unit: str
    against: float | None
    ratio: float | None
    goal: float | None


def at_most(seconds: float, goal_ms: float | None = None) -> Measure:
    """A time in milliseconds, which is to be no longer than the goal."""
    if goal_ms is None:
        return Measure(round(seconds * 1e3, 3), "ms", None, None, None)
    return Measure(round(seconds * 1e3, 3), "ms", goal_ms, round(goal_ms / seconds / 1e3, 3), 1.0)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def report(results: Mapping[str, Measure], file: Path | None) -> None:
    for name, m in results.items():
        ratio = "-" if m.ratio is None else f"{m.ratio:g}"
        print(f"{name:<30} {m.value:>10} {m.unit:<10} ratio {ratio}")
    if file:
        data = {name: asdict(result) for name, result in results.items()}
        file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def poisson(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """When requests arrive that do not know of each other."""
    random = np.random.default_rng(seed)
    return np.cumsum(random.exponential(1 / rate, int(rate * seconds)))


def stay_on(core: int) -> None:
    """Hold this process to one of the cores that it may use, if there are two to part."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def _serve(make_app: Callable[[Path], ASGIApp], graph: Path, port: int) -> None:
    stay_on(0)
    app = make_app(graph)
    # with what deepseek-serve chooses, but for TLS
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http="httptools",
        ws="none",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=75,
    )


class RefusedError(Exception):
    """The server answered with an error."""


@dataclass(frozen=True)
class Server:
    """Where it listens, and the number of its process."""

    port: int
    process: int


@contextmanager
def serving(make_app: Callable[[Path], ASGIApp], graph: Path) -> Iterator[Server]:
    """A server on one core, in a process of its own; this one takes the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(make_app, graph, port))
    process.start()
    cores = os.sched_getaffinity(0)
    stay_on(1)
    # what the client collects would count as the server's time
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield Server(port, process.pid or 0)
    finally:
        process.terminate()
        process.join()
        # for the next server, which begins with this process's cores
        os.sched_setaffinity(0, cores)


def request(path: str, **body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + data


class Client:
    """Connections that are used again, with as little work of its own as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return
        raise SystemExit("the server did not start")

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            # the server closes what nobody has used for a while
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def whole(self, sent: bytes) -> bytes:
        """The body of an answer in one piece."""
        reader, writer = await self._connection()
        writer.write(sent)
        head = await _head(reader)
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return body

    async def get(self, path: str) -> bytes:
        return await self.whole(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def stream(self, sent: bytes) -> AsyncGenerator[bytes, None]:
        """Events of an answer that is streamed; a reader that stops hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(sent)
            await _head(reader)
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    event = line[6:].rstrip()
                    if event == b"[DONE]":
                        return
                    yield event
            raise ConnectionError("a stream ended early")
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:20]:
        raise RefusedError(head.decode("latin-1"))
    return head


async def saturation(
    ask: Callable[[int], Awaitable[object]], clients: int, seconds: float
) -> float:
    """Requests per second when every client asks again as soon as it has its answer."""
    began = time.perf_counter()
    done = 0

    async def go_on(client: int) -> None:
        nonlocal done
        number = client
        while time.perf_counter() - began < seconds:
            await ask(number)
            number += clients
            done += 1

    await asyncio.gather(*(go_on(client) for client in range(clients)))
    return done / (time.perf_counter() - began)
