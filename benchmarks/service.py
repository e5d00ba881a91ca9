"""What the API and the scheduler add to a request, and how many tokens they pass on.

    python benchmarks/service.py [--rate N] [--seconds N] [--streams N] [--json FILE]

Run it in the environment of the serving tests, with nothing else on the machine. The engine does
nothing: it always has the next token at once. Server and client are processes of their own, over
loopback and without TLS, each held to one core where there are two. Requests for one token come at
the given rate, first evenly, then at random (Poisson), where some wait for others as they do for a
single server of any kind. Their times are end to end, so they hold the client's own part too. What
that and the HTTP server take is measured in the same run, with an application that answers as many
bytes and does nothing else: no service on this server can be faster. Then streams of 300 tokens run
at the same time; their rate is the ceiling that the event loop sets, whatever the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from deepseek_serving.backends.local import Service
from deepseek_serving.export.exporter import export
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime import Candidates
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release
from load import CHECKPOINT, Client, Measure, at_most, percentile, poisson, report, request, serving
from starlette.types import ASGIApp, Receive, Scope, Send

MODEL = "null"
# a token that is text by itself
WORD = 500
TOKENS = 300
GOALS_MS = {"p50": 1.0, "p99": 5.0}
WARM_UP = 400


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


Arrivals = Callable[[float, float], npt.NDArray[np.float64]]
ARRIVALS: dict[str, Arrivals] = {
    "constant": lambda rate, seconds: np.arange(int(rate * seconds)) / rate,
    "poisson": lambda rate, seconds: poisson(rate, seconds, seed=1),
}


def null_app(graph: Path) -> ASGIApp:
    scheduler = Scheduler(NullEngine())
    release = Release(MODEL, "1", "0" * 64, graph)
    app = create_app(Service(release, scheduler, ChatTokenizer(graph)))
    scheduler.start()
    return app


# as many as an answer of one token
ANSWER = b" " * 445


def bare_app(_graph: Path) -> ASGIApp:
    """Reads a request and answers it; the least that a server can do."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(len(ANSWER)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})

    return app


def question(**more: object) -> bytes:
    messages = [{"role": "user", "content": "What is a release?"}]
    return request("/v1/chat/completions", model=MODEL, messages=messages, **more)


async def latencies(client: Client, arrivals: npt.NDArray[np.float64]) -> list[float]:
    sent = question(max_tokens=1)
    began = time.perf_counter()

    async def at(moment: float) -> float:
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        asked = time.perf_counter()
        await client.whole(sent)
        return time.perf_counter() - asked

    return list(await asyncio.gather(*(at(moment) for moment in arrivals)))


async def token_rate(client: Client, streams: int) -> float:
    sent = question(max_tokens=TOKENS, stream=True)

    async def events() -> int:
        return sum([1 async for _event in client.stream(sent)])

    began = time.perf_counter()
    counts = await asyncio.gather(*(events() for _stream in range(streams)))
    # each has an event more at its beginning and its end
    return sum(count - 2 for count in counts) / (time.perf_counter() - began)


async def ready(port: int) -> Client:
    client = Client(port)
    await client.until_ready()
    for _warm in range(WARM_UP):
        await client.whole(question(max_tokens=1))
    return client


async def measure(port: int, arguments: argparse.Namespace) -> dict[str, Measure]:
    client = await ready(port)
    results: dict[str, Measure] = {}
    for name, arrivals in ARRIVALS.items():
        taken = await latencies(client, arrivals(arguments.rate, arguments.seconds))
        results[f"request_{name}_p50"] = at_most(statistics.median(taken), GOALS_MS["p50"])
        results[f"request_{name}_p99"] = at_most(percentile(taken, 0.99), GOALS_MS["p99"])
    rates = [await token_rate(client, arguments.streams) for _round in range(3)]
    rate = round(statistics.median(rates), 1)
    results[f"tokens_of_{arguments.streams}_streams"] = Measure(rate, "tokens/s", None, None, None)
    return results


async def measure_bare(
    port: int, arguments: argparse.Namespace, of: dict[str, Measure]
) -> dict[str, Measure]:
    """The same requests to the bare application; the ratio is its part of the service's time."""
    client = await ready(port)
    results: dict[str, Measure] = {}
    for name, arrivals in ARRIVALS.items():
        taken = await latencies(client, arrivals(arguments.rate, arguments.seconds))
        bare, all_of_it = statistics.median(taken) * 1e3, of[f"request_{name}_p50"].value
        results[f"bare_{name}_p50"] = Measure(
            round(bare, 3), "ms", all_of_it, round(bare / all_of_it, 3), None
        )
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
        with serving(null_app, graph) as server:
            results = asyncio.run(measure(server.port, arguments))
        with serving(bare_app, graph) as server:
            results |= asyncio.run(measure_bare(server.port, arguments, results))
    report(results, arguments.json)


if __name__ == "__main__":
    main()
