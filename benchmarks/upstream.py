"""What the service adds to an upstream, against asking that server itself.

    python benchmarks/upstream.py [--rate N] [--seconds N] [--streams N] [--json FILE]

Run it in the environment of the serving tests, with nothing else on the machine. The upstream
is the service with an engine that does nothing (service.py), so all that is measured is overhead.
Both share one core, and this program has the other. Each request is asked of both in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.export.exporter import export
from deepseek_serving.http.proxy import create_forwarding_app
from deepseek_serving.settings import UpstreamSettings
from deepseek_serving.trust.release import Release
from load import CHECKPOINT, Client, Measure, percentile, poisson, report, serving
from service import MODEL, WARM_UP, latencies, null_app, question, token_rate
from starlette.types import ASGIApp, Receive, Scope, Send


def front_app(port: int, core: int, graph: Path) -> ASGIApp:
    # this process has taken the other core by the time that the second server starts
    os.sched_setaffinity(0, {core})
    url = f"http://127.0.0.1:{port}"
    settings = UpstreamSettings(url=url, model=MODEL, health_path="/healthz")
    upstream = Upstream(Release(MODEL, "1", "0" * 64, graph), settings)
    app = create_forwarding_app(upstream)

    async def begun(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await upstream.begin()
        await app(scope, receive, send)

    return begun


async def first_tokens(client: Client, count: int) -> list[float]:
    """Seconds to the first event that has a word, one stream after the other."""
    sent = question(max_tokens=4, stream=True)
    taken = []
    for _stream in range(count):
        began = time.perf_counter()
        stream = client.stream(sent)
        await anext(stream)
        await anext(stream)
        taken.append(time.perf_counter() - began)
        await stream.aclose()
    return taken


async def figures(port: int, arguments: argparse.Namespace) -> dict[str, float]:
    client = Client(port)
    await client.until_ready()
    for _warm in range(WARM_UP):
        await client.whole(question(max_tokens=1))
    taken = await latencies(client, poisson(arguments.rate, arguments.seconds, seed=1))
    rates = [await token_rate(client, arguments.streams) for _round in range(3)]
    return {
        "request_p50": statistics.median(taken),
        "request_p99": percentile(taken, 0.99),
        "first_token_p50": statistics.median(await first_tokens(client, 200)),
        f"tokens_of_{arguments.streams}_streams": statistics.median(rates),
    }


def compared(direct: dict[str, float], front: dict[str, float]) -> dict[str, Measure]:
    """Times in ms and rates in tokens/s, each against the upstream."""
    results = {}
    for name, value in front.items():
        scale, unit = (1.0, "tokens/s") if name.startswith("tokens") else (1e3, "ms")
        value, against = round(value * scale, 3), round(direct[name] * scale, 3)
        results[f"behind_{name}"] = Measure(against, unit, None, None, None)
        results[name] = Measure(value, unit, against, round(value / against, 3), None)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=100, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph"
        export(CHECKPOINT, graph)
        with (
            serving(null_app, graph) as behind,
            serving(partial(front_app, behind.port, core), graph) as front,
        ):
            direct = asyncio.run(figures(behind.port, arguments))
            through = asyncio.run(figures(front.port, arguments))
    report(compared(direct, through), arguments.json)


if __name__ == "__main__":
    main()
