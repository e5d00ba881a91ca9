"""Time to the first token under load, and beside a client that sends the longest prompts.

    python benchmarks/latency.py [--seconds N] [--chunk N] [--json FILE]

Run it in the environment of the serving tests, with nothing else on the machine. The shipped
checkpoint runs on one core, this program on another. As MLPerf's Server scenario has it: prompts of
32 tokens arrive at random (Poisson), and what counts is the 99th percentile of the time from
sending a request to the first event of its answer. The rate is half of what the service can do,
measured first: requests per second when twice as many clients as it has slots ask without a pause.
Then the same rate again while one client keeps sending the longest prompt that fits. No two
prompts are alike, so the cache never helps. MLPerf wants 600 seconds and 270336 requests for a
figure to publish: `--seconds 600` is the first of these.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from deepseek_serving.backends.local import Service
from deepseek_serving.export.exporter import export
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release
from load import (
    CHECKPOINT,
    Client,
    Measure,
    RefusedError,
    at_most,
    percentile,
    poisson,
    report,
    request,
    saturation,
    serving,
)
from starlette.types import ASGIApp

MODEL = "tiny"
SLOTS, MAX_LEN = 8, 512
PROMPT, ANSWER = 32, 16
SATURATION_SECONDS = 10
SHARE = 0.5
GOAL_MS = 100.0
# ordinary tokens of the checkpoint's vocabulary
FIRST_TOKEN, LAST_TOKEN = 300, 1000


def tiny_app(graph: Path, chunk: int = 128) -> ASGIApp:
    engine = OnnxRuntimeEngine(graph, threads=1, slots=SLOTS, max_len=MAX_LEN)
    scheduler = Scheduler(engine, Limits(prefill_chunk=chunk))
    service = Service(Release(MODEL, "1", "0" * 64, graph), scheduler, ChatTokenizer(graph))
    scheduler.start()
    return create_app(service)


class Load:
    """Requests with prompts that have not been sent before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._random = np.random.default_rng(2)

    def _sent(self, length: int, answer: int) -> bytes:
        prompt = self._random.integers(FIRST_TOKEN, LAST_TOKEN, length).tolist()
        body = {"model": MODEL, "prompt": prompt, "max_tokens": answer, "stream": True}
        return request("/v1/completions", **body)

    async def first_token(self, length: int = PROMPT, answer: int = ANSWER) -> float:
        """Seconds to the first event; the answer is read to its end."""
        sent = self._sent(length, answer)
        began = time.perf_counter()
        first = 0.0
        async for _event in self._client.stream(sent):
            first = first or time.perf_counter() - began
        return first

    async def at_rate(self, rate: float, seconds: float) -> list[float]:
        began = time.perf_counter()

        async def at(moment: float) -> float:
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            return await self.first_token()

        moments = poisson(rate, seconds, seed=1)
        answers = await asyncio.gather(*(at(moment) for moment in moments), return_exceptions=True)
        taken = []
        for answer in answers:
            if isinstance(answer, RefusedError):
                # it is to spoil the percentiles: no time is too long for an answer not given
                taken.append(float("inf"))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                taken.append(answer)
        return taken

    async def longest_prompts(self) -> None:
        """One after the other, until cancelled."""
        while True:
            await self.first_token(MAX_LEN - 1, 1)


def measured(name: str, taken: list[float]) -> dict[str, Measure]:
    refused = taken.count(float("inf"))
    return {
        f"{name}_refused": Measure(refused, "requests", None, None, None),
        f"{name}_requests": Measure(len(taken), "requests", None, None, None),
        f"{name}_p50": at_most(statistics.median(taken)),
        f"{name}_p99": at_most(percentile(taken, 0.99), GOAL_MS),
    }


async def measure(port: int, seconds: float) -> dict[str, Measure]:
    client = Client(port)
    await client.until_ready()
    load = Load(client)
    await saturation(lambda _number: load.first_token(), 2 * SLOTS, 2)
    most = await saturation(lambda _number: load.first_token(), 2 * SLOTS, SATURATION_SECONDS)
    rate = SHARE * most
    results = {"saturation": Measure(round(most, 1), "requests/s", None, None, None)}
    results |= measured("ttft", await load.at_rate(rate, seconds))
    beside = asyncio.ensure_future(load.longest_prompts())
    results |= measured("ttft_beside_longest", await load.at_rate(rate, seconds))
    beside.cancel()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30, help="of each of the two parts")
    parser.add_argument("--chunk", type=int, default=128, help="prefill_chunk of the service")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph"
        export(CHECKPOINT, graph)
        with serving(partial(tiny_app, chunk=arguments.chunk), graph) as server:
            results = asyncio.run(measure(server.port, arguments.seconds))
    report(results, arguments.json)


if __name__ == "__main__":
    main()
