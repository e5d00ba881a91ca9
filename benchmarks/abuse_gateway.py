"""Whether one client's abuse of the gateway is felt by twenty others.

    PYTHONPATH=tests/unit:tests/unit/plugins/gateway python benchmarks/abuse_gateway.py
        [ATTACK ...] [--requests N] [--turns N] [--rate N]

A real HAProxy with the role's configuration, and two workers that answer at once, over mutual TLS.
Twenty clients with an API key each ask politely; one attacker, at another address and in a process
with the lowest priority, asks over eight connections without a pause:

    two keys        two `Authorization` headers, of which nobody may read one
    forged address  addresses in every header that might name one, a new one for each request

The clients' P99 (median of the turns) may be at most 1.5 times what it is without the attack, none
of them may be refused or fail, no request with two keys may reach a worker, and of the others no
more than a key is allowed (`gateway_key_requests_per_minute`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import re
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

from gateway_process import SERVICE, Gateway, Site
from waiting import until

CLIENTS = 20
CONNECTIONS = 8
MOST_RATIO = 1.5
# of the attacker: any of 127.0.0.0/8 is this host
ELSEWHERE = "127.0.0.2"
PER_MINUTE = 1200
CHAT = "/v1/chat/completions"
FORGED = (
    "X-Forwarded-For",
    "X-Real-IP",
    "Forwarded",
    "X-DeepSeek-Client",
    "X-Gateway-Server",
    "True-Client-IP",
)


def request(*headers: tuple[str, str]) -> bytes:
    lines = [f"POST {CHAT} HTTP/1.1", f"Host: {SERVICE}", "Content-Length: 2"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n{}"


def key(name: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer sk-{name}")


def two_keys(number: int) -> bytes:
    return request(key("attacker"), key(f"invented-{number}"))


def forged(number: int) -> bytes:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return request(key("attacker"), *((name, address) for name in FORGED))


ATTACKS = {"two keys": two_keys, "forged address": forged}


class Connection:
    """Kept as long as the gateway keeps it."""

    def __init__(self, port: int, context: ssl.SSLContext, source: str = "127.0.0.1") -> None:
        self._port, self._context, self._source = port, context, source
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def status(self, sent: bytes) -> int:
        """Of the answer; 0 where there is none."""
        try:
            if self._open is None or self._open[0].at_eof():
                self._open = await asyncio.open_connection(
                    "127.0.0.1",
                    self._port,
                    ssl=self._context,
                    server_hostname=SERVICE,
                    local_addr=(self._source, 0),
                )
            reader, writer = self._open
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            return int(head.split(b" ", 2)[1])
        except (OSError, asyncio.IncompleteReadError):
            if self._open is not None:
                self._open[1].close()
                self._open = None
            return 0


class Number(Protocol):
    """One in memory that processes share."""

    value: int


async def _attack(name: str, port: int, context: ssl.SSLContext, answered: Number) -> None:
    numbers = count()

    async def ask() -> None:
        connection = Connection(port, context, ELSEWHERE)
        while True:
            if await connection.status(ATTACKS[name](next(numbers))):
                answered.value += 1
            else:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(ask() for _connection in range(CONNECTIONS)))


def attack(name: str, port: int, authority: Path, answered: Number) -> None:
    """The attacker's process, until it is ended."""
    os.nice(19)
    asyncio.run(_attack(name, port, ssl.create_default_context(cafile=authority), answered))


@contextlib.contextmanager
def attacking(name: str | None, gateway: Gateway) -> Iterator[Number]:
    """How many of its requests were answered."""
    context = multiprocessing.get_context("spawn")
    answered: Number = context.RawValue("q", 0)
    if name is None:
        yield answered
        return
    arguments = (name, gateway.port, gateway.pki / "ca.pem", answered)
    process = context.Process(target=attack, args=arguments)
    process.start()
    try:
        until(lambda: answered.value > 0)
        yield answered
    finally:
        process.terminate()
        process.join()


@dataclass
class Seen:
    """What the twenty clients saw, and what reached workers meanwhile."""

    p99: list[float] = field(default_factory=list)
    failed: int = 0
    taken: int = 0
    answered: int = 0
    seconds: float = 0


async def turn(gateway: Gateway, requests: int, rate: float, seen: Seen) -> None:
    context = ssl.create_default_context(cafile=gateway.pki / "ca.pem")
    began = time.perf_counter() + 0.1
    taken: list[float] = []

    async def client(number: int) -> None:
        connection = Connection(gateway.port, context)
        sent = request(key(f"client-{number}"))
        for place in range(number, requests, CLIENTS):
            await asyncio.sleep(max(0.0, began + place / rate - time.perf_counter()))
            asked = time.perf_counter()
            seen.failed += await connection.status(sent) != 200
            taken.append(time.perf_counter() - asked)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    seen.p99.append(sorted(taken)[int(len(taken) * 0.99)])


def turns(gateway: Gateway, name: str | None, options: argparse.Namespace) -> Seen:
    seen = Seen()
    for worker in gateway.workers:
        worker.reset()
    began = time.monotonic()
    with attacking(name, gateway) as answered:
        for _turn in range(options.turns):
            asyncio.run(turn(gateway, options.requests, options.rate, seen))
        seen.answered = answered.value
    seen.seconds = time.monotonic() - began
    seen.taken = sum(len(worker.taken) for worker in gateway.workers)
    return seen


def faults(name: str, seen: Seen, ratio: float, reached: int) -> Iterator[str]:
    """Which goals are missed; `reached`: requests of the attacker that a worker got."""
    allowed = 0 if name == "two keys" else PER_MINUTE * (seen.seconds / 60 + 1)
    if ratio > MOST_RATIO:
        yield f"{name}: P99 is {ratio:.2f} times that without it"
    if seen.failed:
        yield f"{name}: {seen.failed} requests of the others were refused or failed"
    if reached > allowed:
        yield f"{name}: {reached} requests of the attacker reached a worker"


@contextlib.contextmanager
def running(site: Site) -> Iterator[Gateway]:
    """A process that has counted nothing yet."""
    gateway = site.gateway("plain")
    gateway.log.close()
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()
        (gateway.directory / "log").unlink()


def run(site: Site, options: argparse.Namespace) -> list[str]:
    missed: list[str] = []
    for name in options.attack or ATTACKS:
        with running(site) as gateway:
            alone = turns(gateway, None, options)
            seen = turns(gateway, name, options)
        before, after = statistics.median(alone.p99), statistics.median(seen.p99)
        asked = options.requests * options.turns
        reached = seen.taken - asked + seen.failed
        print(
            f"{name:<14} P99 {before * 1e3:6.2f} -> {after * 1e3:6.2f} ms, "
            f"{after / before:5.2f} times; {seen.failed} failed; {reached} of {seen.answered} "
            f"requests of the attacker reached a worker in {seen.seconds:.0f} s",
            flush=True,
        )
        missed += faults(name, seen, after / before, reached)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("attack", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--requests", type=int, default=2000, help="of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50, help="requests per second, of all")
    options = parser.parse_args()
    unknown = set(options.attack) - set(ATTACKS)
    if unknown:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        try:
            missed = run(site, options)
        finally:
            for worker in site.workers:
                worker.close()
    for text in missed:
        print(text, file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
