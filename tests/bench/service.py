"""What the API and the scheduler add to a request, and how many tokens they pass on.

    python tests/bench/service.py [--rate N] [--seconds N] [--streams N] [--json FILE]

Run it in the environment of the serving tests, with nothing else on the machine. The engine does
nothing: it always has the next token at once. Server and client are processes of their own, over
loopback and without TLS, each held to one core where there are two. Requests for one token come at
the given rate, first evenly, then at random (Poisson), where some wait for others as they do for a
single server of any kind. Their times are end to end, so they hold the client's own part too. Then
streams of 300 tokens run at the same time; their rate is the ceiling that the event loop sets,
whatever the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import uvicorn
from deepseek_serving.api.app import create_app
from deepseek_serving.export.exporter import export
from deepseek_serving.release import Release
from deepseek_serving.runtime import Candidates
from deepseek_serving.scheduler import Scheduler
from deepseek_serving.service import Service
from deepseek_serving.text import ChatTokenizer

CHECKPOINT = Path(__file__).resolve().parents[1] / "fixtures" / "checkpoint"
MODEL = "null"
# a token that is text by itself
WORD = 500
TOKENS = 300
GOALS_MS = {"p50": 1.0, "p99": 5.0}
WARM_UP = 400


@dataclass(frozen=True)
class Measure:
    """`ratio` is at least `goal` when the measure is good enough; None where none is set."""

    value: float
    unit: str
    against: float | None
    ratio: float | None
    goal: float | None


class NullEngine:
    """Says the same word for ever."""

    slots, max_len = 64, 4096

    def __init__(self) -> None:
        self._values = np.zeros((self.slots, 1), dtype=np.float32)
        self._logits = np.zeros((self.slots, 1024), dtype=np.float32)
        self._tokens = np.full((self.slots, 1), WORD, dtype=np.int64)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        return Candidates(self._values[:1], self._tokens[:1])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        return Candidates(self._values[: len(tokens)], self._tokens[: len(tokens)])

    def logits(self) -> npt.NDArray[np.float32]:
        return self._logits

    def reset(self) -> None:
        """There is nothing to forget."""


Gaps = Callable[[np.random.Generator, float, int], npt.NDArray[np.float64]]
ARRIVALS: dict[str, Gaps] = {
    "constant": lambda _random, rate, count: np.full(count, 1 / rate),
    "poisson": lambda random, rate, count: random.exponential(1 / rate, count),
}


def stay_on(core: int) -> None:
    """Hold this process to one of the cores that it may use, if there are two to part."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def serve(graph: Path, port: int) -> None:
    stay_on(0)
    scheduler = Scheduler(NullEngine())
    release = Release(MODEL, "1", "0" * 64, graph)
    app = create_app(Service(release, scheduler, ChatTokenizer(graph)))
    scheduler.start()
    uvicorn.run(app, host="127.0.0.1", port=port, log_config=None, timeout_keep_alive=75)


def request(**more: object) -> bytes:
    messages = [{"role": "user", "content": "What is a release?"}]
    body = json.dumps({"model": MODEL, "messages": messages, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + body


class Client:
    """Connections that are used again, with as little work of its own as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._idle:
            return self._idle.pop()
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def whole(self, sent: bytes) -> float:
        """Seconds to the last byte of an answer in one piece."""
        reader, writer = await self._connection()
        began = time.perf_counter()
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise SystemExit(f"refused: {head.decode()}")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        await reader.readexactly(length)
        taken = time.perf_counter() - began
        self._idle.append((reader, writer))
        return taken

    async def stream(self, sent: bytes) -> int:
        """Events of an answer that is streamed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(sent)
        count = 0
        while b"[DONE]" not in (line := await reader.readline()):
            if not line:
                raise SystemExit("a stream ended early")
            count += line.startswith(b"data: ")
        writer.close()
        return count


async def until_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit("the server did not start")


async def latencies(client: Client, gaps: npt.NDArray[np.float64]) -> list[float]:
    sent = request(max_tokens=1)
    arrivals = np.cumsum(gaps)
    began = time.perf_counter()

    async def at(moment: float) -> float:
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        return await client.whole(sent)

    return list(await asyncio.gather(*(at(moment) for moment in arrivals)))


async def token_rate(client: Client, streams: int) -> float:
    sent = request(max_tokens=TOKENS, stream=True)
    began = time.perf_counter()
    counts = await asyncio.gather(*(client.stream(sent) for _stream in range(streams)))
    # each has an event more at its beginning and its end
    return sum(count - 2 for count in counts) / (time.perf_counter() - began)


def rated(name: str, taken: Sequence[float]) -> dict[str, Measure]:
    ordered = sorted(taken)
    found = {"p50": statistics.median(ordered), "p99": ordered[int(len(ordered) * 0.99)]}
    return {
        f"{name}_{part}": Measure(
            round(value * 1e3, 3), "ms", GOALS_MS[part], round(GOALS_MS[part] / value / 1e3, 3), 1.0
        )
        for part, value in found.items()
    }


async def measure(port: int, arguments: argparse.Namespace) -> dict[str, Measure]:
    await until_ready(port)
    client = Client(port)
    for _warm in range(WARM_UP):
        await client.whole(request(max_tokens=1))
    random = np.random.default_rng(1)
    count = int(arguments.rate * arguments.seconds)
    results: dict[str, Measure] = {}
    for name, gaps in ARRIVALS.items():
        taken = await latencies(client, gaps(random, arguments.rate, count))
        results |= rated(f"request_{name}", taken)
    rates = [await token_rate(client, arguments.streams) for _round in range(3)]
    rate = round(statistics.median(rates), 1)
    results[f"tokens_of_{arguments.streams}_streams"] = Measure(rate, "tokens/s", None, None, None)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=200, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph"
        export(CHECKPOINT, graph)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(graph, port))
        server.start()
        stay_on(1)
        # what the client collects would count as the server's time
        gc.disable()
        try:
            results = asyncio.run(measure(port, arguments))
        finally:
            server.terminate()
            server.join()
    for name, m in results.items():
        ratio = "-" if m.ratio is None else f"{m.ratio:g}"
        print(f"{name:<26} {m.value:>10} {m.unit:<9} ratio {ratio}")
    if arguments.json:
        data = {name: asdict(result) for name, result in results.items()}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
