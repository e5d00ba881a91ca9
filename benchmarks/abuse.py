"""Whether one client's abuse is felt by twenty others.

    python benchmarks/abuse.py [ATTACK ...] [--requests N] [--turns N] [--rate N] [--json FILE]

Run it in the environment of the serving tests, with nothing else on the machine, on two cores: the
service with the shipped checkpoint, twenty clients that ask it politely and keep their connections,
and one attacker, each in a process of its own. The attacker's has the lowest priority, since it
stands for other machines. It sends one wicked request after the other, each as soon as the last is
answered (or holds thousands of connections, dribbles, hangs up). There is no TLS, and so none of
what a gateway would keep away.

The clients' P99 (median of the turns) may be at most 1.5 times what it is without the attack, none
of them may get a status of 500 or more, and the memory of the service with its processes may not
grow by more than 64 MiB until a second after the attack. The event loop may never be held for more
than 10 ms, in time of the processor, so that what else the machine does is not counted. The exit
status says whether that is so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import os
import re
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from deepseek_serving.export.exporter import export
from deepseek_serving.http import tls
from deepseek_serving.http.connections import ListeningServer, Places
from latency import MODEL, tiny_app
from load import CHECKPOINT, Client, Measure, RefusedError, percentile, report, request

CLIENTS = 20
CONNECTIONS = 9000
MOST_RATIO = 1.5
MOST_GROWTH = 64.0
MOST_HELD_MS = 10.0
LARGE = 8 * 2**20 - 2**12
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SOMEBODY = "gateway-1"
FILES = 16_384


def raw(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + body


def filled(head: str, unit: str, tail: str) -> bytes:
    count = (LARGE - len(head) - len(tail)) // len(unit)
    return f"{head}{unit * count}{tail}".encode()


def chat(**more: object) -> bytes:
    return request(CHAT, model=MODEL, max_tokens=8, **more)


def of_schema(schema: dict[str, object]) -> bytes:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return chat(messages=[{"role": "user", "content": "What is a release?"}], response_format=form)


NAMED = f'{{"model":"{MODEL}",'
TEXT = "The release is signed, and who signs it is known. " * 10_000
PATTERNS = {"allOf": [{"type": "string", "pattern": f".*x{n}.*"} for n in range(30)]}

# One after the other, each of these.
REQUESTS: dict[str, Callable[[], bytes]] = {
    "messages": lambda: raw(CHAT, filled(f'{NAMED}"messages":[', "{},", "{}]}")),
    "content": lambda: raw(
        CHAT, filled(f'{NAMED}"messages":[{{"role":"user","content":[', "0,", "0]}]}")
    ),
    "prompt": lambda: raw(COMPLETIONS, filled(f'{NAMED}"prompt":[', "0,", "0]}")),
    "nesting": lambda: raw(CHAT, filled(f'{NAMED}"metadata":', "[", "]")),
    "long text": lambda: chat(messages=[{"role": "user", "content": TEXT}]),
    "longest text": lambda: raw(
        CHAT, filled(f'{NAMED}"messages":[{{"role":"user","content":"', "word ", '"}]}')
    ),
    "one word": lambda: chat(messages=[{"role": "user", "content": "x" * 500_000}]),
    "repetition": lambda: of_schema({"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "multiple": lambda: of_schema({"type": "integer", "multipleOf": 1000003}),
    "patterns": functools.partial(of_schema, PATTERNS),
    "path": f"GET /{'a' * 9000} HTTP/1.1\r\nhost: x\r\n\r\n".encode,
}


async def repeat(port: int, data: bytes) -> None:
    """The same request for ever; a connection that is closed is opened again."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while True:
                    writer.write(data)
                    await writer.drain()
                    head = await reader.readuntil(b"\r\n\r\n")
                    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                    await reader.readexactly(int(found[1]) if found else 0)
            finally:
                writer.close()
        await asyncio.sleep(0.01)


async def connect(port: int) -> None:
    """As many connections as there may be, and more, which are opened again when they end."""

    async def hold() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await reader.read()
                writer.close()
            await asyncio.sleep(5)

    holding = []
    for _connection in range(CONNECTIONS):
        holding.append(asyncio.ensure_future(hold()))
        await asyncio.sleep(0.001)
    await asyncio.gather(*holding)


async def dribble(port: int) -> None:
    """Bodies that come a byte at a time: small ones, and large ones that hold places."""

    async def one(beginning: int) -> None:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGE}\r\n"
        while True:
            with contextlib.suppress(OSError):
                _reader, writer = await asyncio.open_connection("127.0.0.1", port)
                data = f"{head}content-type: application/json\r\n\r\n".encode() + b" " * beginning
                writer.write(data)
                for _byte in range(60):
                    await asyncio.sleep(0.5)
                    writer.write(b" ")
                    await writer.drain()
                writer.close()

    await asyncio.gather(*(one(100_000 if number % 4 == 0 else 1) for number in range(200)))


async def hang_up(port: int) -> None:
    """Fifty clients a second who ask for a stream and leave at once."""
    data = chat(messages=[{"role": "user", "content": "Who may sign?"}], stream=True)
    while True:
        with contextlib.suppress(OSError):
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            await asyncio.sleep(0.005)
            writer.transport.abort()
        await asyncio.sleep(0.015)


OTHERS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    "connections": connect,
    "dribble": dribble,
    "hang up": hang_up,
}


class Longest(Protocol):
    """A number in memory that processes share, in seconds."""

    value: float


def more_files() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def attack(name: str, port: int) -> None:
    """The attacker's process, until it is ended."""
    os.nice(19)
    more_files()
    other = OTHERS.get(name)
    asyncio.run(other(port) if other else repeat(port, REQUESTS[name]()))


def time_loop(held: Longest) -> None:
    """Note the longest time of the processor that one call from the event loop takes."""
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        held.value = max(held.value, time.thread_time() - began)
        # as asyncio does: the frames of an error would keep it, and it the error
        del handle

    asyncio.Handle._run = timed


def serve(graph: Path, port: int, held: Longest) -> None:
    """The service's process: with all that deepseek-serve has, but for TLS."""
    more_files()
    time_loop(held)
    # who has a certificate is told by TLS
    tls.common_name = lambda _certificate: SOMEBODY
    places = Places()
    config = uvicorn.Config(
        tiny_app(graph),
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http=tls.checked_protocol({SOMEBODY}, places),
        ws="none",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=75,
    )
    ListeningServer(config, places).run()


@contextmanager
def running(target: Callable[..., None], *arguments: object) -> Iterator[int]:
    """A process, ended at the end; its number."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.terminate()
        process.join()


def resident(process: int) -> float:
    """MiB that a process and those that it started have in memory."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    children = Path(f"/proc/{process}/task").glob("*/children")
    own = int(found[1]) / 1024 if found else 0.0
    return own + sum(
        resident(int(child))
        for path in children
        for child in path.read_text(encoding="ascii").split()
    )


@dataclass
class Turn:
    """What the twenty clients saw."""

    taken: list[float] = field(default_factory=list)
    failed: int = 0
    refused: int = 0


QUESTION = chat(messages=[{"role": "user", "content": "What is a release?"}])


async def turn(port: int, requests: int, rate: float) -> Turn:
    """Each client asks at its times, `rate` in a second all together."""
    seen = Turn()
    began = time.perf_counter() + 0.1

    async def client(number: int) -> None:
        own = Client(port)
        for place in range(number, requests, CLIENTS):
            await asyncio.sleep(max(0.0, began + place / rate - time.perf_counter()))
            asked = time.perf_counter()
            try:
                await own.whole(QUESTION)
            except RefusedError as error:
                seen.failed += " 5" in str(error)[:12]
                seen.refused += " 5" not in str(error)[:12]
            except (OSError, asyncio.IncompleteReadError):
                seen.failed += 1
            seen.taken.append(time.perf_counter() - asked)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return seen


@dataclass(frozen=True)
class Server:
    """Where it listens, the number of its process, and for how long its loop was held at most."""

    port: int
    process: int
    held: Longest


@dataclass(frozen=True)
class Seen:
    """All turns together; memory in MiB, the longest hold of the event loop in seconds."""

    p99: float
    failed: int
    refused: int
    growth: float
    peak: float
    held: float


async def turns(server: Server, name: str | None, options: argparse.Namespace) -> Seen:
    port, process = server.port, server.process
    before = resident(process)
    server.held.value = 0.0
    peak = before
    found: list[Turn] = []

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident(process))
            await asyncio.sleep(0.25)

    watching = asyncio.ensure_future(watch())
    with running(attack, name, port) if name else contextlib.nullcontext():
        # until it has imported what it needs and begun
        await asyncio.sleep(options.begin if name else 0)
        for _turn in range(options.turns):
            found.append(await turn(port, options.requests, options.rate))
    await asyncio.sleep(1)
    watching.cancel()
    return Seen(
        statistics.median(percentile(one.taken, 0.99) for one in found),
        sum(one.failed for one in found),
        sum(one.refused for one in found),
        resident(process) - before,
        peak - before,
        server.held.value,
    )


def measures(name: str, seen: Seen, alone: Seen) -> dict[str, Measure]:
    ratio = seen.p99 / alone.p99
    label = name.replace(" ", "_")
    return {
        f"{label}_p99": Measure(
            round(seen.p99 * 1e3, 2),
            "ms",
            round(alone.p99 * 1e3, 2),
            round(MOST_RATIO / ratio, 3),
            1.0,
        ),
        f"{label}_memory": Measure(round(seen.growth, 1), "MiB", MOST_GROWTH, None, None),
        f"{label}_peak_memory": Measure(round(seen.peak, 1), "MiB", None, None, None),
        f"{label}_loop": Measure(round(seen.held * 1e3, 2), "ms", MOST_HELD_MS, None, None),
        f"{label}_failed": Measure(seen.failed, "requests", None, None, None),
    }


def faults(name: str, seen: Seen, alone: Seen) -> list[str]:
    """Which goals are missed."""
    ratio = seen.p99 / alone.p99
    found = {
        f"P99 is {ratio:.2f} times that without it": ratio > MOST_RATIO,
        f"the event loop was held for {seen.held * 1e3:.1f} ms": seen.held * 1e3 > MOST_HELD_MS,
        f"memory grew by {seen.growth:.1f} MiB": seen.growth > MOST_GROWTH,
        f"{seen.failed} requests failed": seen.failed > 0,
        f"{seen.refused} requests were refused": seen.refused > 0,
    }
    return [f"{name}: {text}" for text, missed in found.items() if missed]


async def run(server: Server, options: argparse.Namespace) -> tuple[dict[str, Measure], list[str]]:
    await Client(server.port).until_ready()
    await turn(server.port, 10 * CLIENTS, options.rate)
    results: dict[str, Measure] = {}
    missed: list[str] = []
    for name in options.attack or [*REQUESTS, *OTHERS]:
        # beside each other, since a machine has its hours
        alone = await turns(server, None, options)
        seen = await turns(server, name, options)
        ratio = seen.p99 / alone.p99
        print(
            f"{name:<14} P99 {alone.p99 * 1e3:7.2f} -> {seen.p99 * 1e3:7.2f} ms, "
            f"{ratio:5.2f} times; memory {seen.growth:+6.1f} MiB (at most {seen.peak:+6.1f}); "
            f"loop held {seen.held * 1e3:.1f} ms; {seen.failed} failed, {seen.refused} refused",
            flush=True,
        )
        results |= measures(name, seen, alone)
        missed += faults(name, seen, alone)
    return results, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("attack", nargs="*", metavar="ATTACK", help=", ".join([*REQUESTS, *OTHERS]))
    parser.add_argument("--requests", type=int, default=2000, help="of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50, help="requests per second, of all")
    parser.add_argument("--begin", type=float, default=5, help="seconds before the first turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    unknown = set(options.attack) - {*REQUESTS, *OTHERS}
    if unknown:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph"
        export(CHECKPOINT, graph)
        held = multiprocessing.get_context("spawn").RawValue("d", 0.0)
        with running(serve, graph, port, held) as process:
            results, missed = asyncio.run(run(Server(port, process, held), options))
    if options.json:
        report(results, options.json)
    for text in missed:
        print(text, file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
