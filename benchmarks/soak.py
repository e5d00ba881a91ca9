"""Whether the service stays what it is: no stream lost or mixed up, no memory that only grows.

    python benchmarks/soak.py [--minutes N]

Run it in the environment of the serving tests: 5 minutes by default, `--minutes 60` for a release.
The shipped checkpoint runs on one core, this program on another. Requests arrive at random
(Poisson) at 70 % of what the service can do, which is measured first: streams, answers in one
piece, and clients that hang up in the middle of a stream. Every request has a seed, so its answer
is known: what the service said when it was asked alone.

Ends with status 1, and says why, when an answer differs, ends early or goes on after its end; when
what the service counted is not what was asked; when a slot stays taken; or when its memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from deepseek_serving.export.exporter import export
from latency import MODEL, SLOTS, tiny_app
from load import CHECKPOINT, Client, RefusedError, Server, poisson, request, saturation, serving

SHARE = 0.7
SATURATION_SECONDS = 5.0
# the first part of the run, in which memory may still grow to what the load needs
WARM_UP = 0.3
# MiB from the end of the warm-up to the end of the run; what comes and goes with load is half of it
MOST_GROWTH = 4.0
QUESTIONS = (
    "What is a release?",
    "Who may sign?",
    "How is a host prepared, and what does it need before that can begin?",
    "Tell me of the gateway.",
)
LENGTHS = (4, 12, 32, 64)
TEMPERATURES = (0.0, 1.5)
KINDS = ("stream", "whole", "stream", "hang up")
# events that a client reads before it hangs up: the first has no text
READ = 3
MOST_SHOWN = 20
# bursts may fill the queue, where the machine has something else to do for a moment
MOST_REFUSED = 0.01


@dataclass(frozen=True)
class Ask:
    """A request whose answer never changes."""

    question: str
    length: int
    temperature: float
    seed: int

    def sent(self, *, stream: bool) -> bytes:
        return request(
            "/v1/chat/completions",
            model=MODEL,
            messages=[{"role": "user", "content": self.question}],
            max_tokens=self.length,
            temperature=self.temperature,
            seed=self.seed,
            stream=stream,
            **({"stream_options": {"include_usage": True}} if stream else {}),
        )


ASKS = [
    Ask(*parts, seed=number)
    for number, parts in enumerate(itertools.product(QUESTIONS, LENGTHS, TEMPERATURES))
]


@dataclass(frozen=True)
class Answer:
    """What came back, and the reason why it ended."""

    text: str
    finish: str
    tokens: int


@dataclass
class Soak:
    """What was asked, what came back, and what was wrong with it."""

    client: Client
    expected: dict[Ask, Answer] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    complete: int = 0
    tokens: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    async def whole(self, ask: Ask) -> Answer:
        self.asked["whole"] += 1
        body = json.loads(await self.client.whole(ask.sent(stream=False)))
        (choice,) = body["choices"]
        return self._noted(
            Answer(
                choice["message"]["content"],
                choice["finish_reason"],
                body["usage"]["completion_tokens"],
            )
        )

    async def stream(self, ask: Ask) -> Answer:
        self.asked["stream"] += 1
        text, finish, tokens, names = "", [], 0, set()
        async for data in self.client.stream(ask.sent(stream=True)):
            event: dict[str, Any] = json.loads(data)
            names.add(event["id"])
            for choice in event["choices"]:
                text += choice["delta"].get("content", "")
                finish += [choice["finish_reason"]] if choice["finish_reason"] else []
            tokens += (event["usage"] or {}).get("completion_tokens", 0)
        if len(names) != 1 or len(finish) != 1:
            raise ValueError(f"{len(names)} streams in one, with {len(finish)} ends")
        return self._noted(Answer(text, finish[0], tokens))

    def _noted(self, answer: Answer) -> Answer:
        self.complete += 1
        self.tokens += answer.tokens
        return answer

    async def hang_up(self, ask: Ask) -> None:
        self.asked["hang up"] += 1
        events = self.client.stream(ask.sent(stream=True))
        try:
            for _event in range(READ):
                await anext(events)
        finally:
            await events.aclose()

    async def ask(self, kind: str, ask: Ask) -> None:
        """One request of the load; what is wrong with its answer is noted."""
        try:
            if kind == "hang up":
                await self.hang_up(ask)
                return
            answer = await (self.whole(ask) if kind == "whole" else self.stream(ask))
        except RefusedError as error:
            if " 429 " not in str(error)[:20]:
                self.wrong.append(f"{kind} {ask}: {error}")
            self.refused += 1
            return
        # whatever went wrong belongs into the report, and the load goes on
        except Exception as error:
            self.wrong.append(f"{kind} {ask}: {type(error).__name__}: {error}")
            return
        if answer != self.expected[ask]:
            self.wrong.append(f"{kind} {ask}: {answer} instead of {self.expected[ask]}")

    async def load(self, rate: float, seconds: float) -> None:
        began = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        kinds = itertools.cycle(KINDS)
        random = np.random.default_rng(3)
        for moment in poisson(rate, seconds, seed=1):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            ask = ASKS[int(random.integers(len(ASKS)))]
            task = asyncio.ensure_future(self.ask(next(kinds), ask))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def compare_counts(self) -> None:
        """What the service counted against what was asked."""
        await self._until_idle()
        found = await _metrics(self.client)
        ended = {
            reason: found.get(f'deepseek_generations_total{{key="-",reason="{reason}"}}', 0)
            for reason in ("stop", "length", "cancelled", "error", "timeout", "refused")
        }
        asked, gone = self.asked.total() - self.refused, self.asked["hang up"]
        full = ended["stop"] + ended["length"]
        generated = found['deepseek_generation_tokens_total{key="-"}']
        most = self.tokens + gone * max(LENGTHS)
        checks = {
            f"{sum(ended.values()):.0f} answers counted, {asked} asked for": (
                sum(ended.values()) == asked
            ),
            f"{full:.0f} complete ones counted, {self.complete} seen and {gone} left": (
                self.complete <= full <= self.complete + gone
            ),
            f"{generated:.0f} tokens counted, {self.tokens} seen": (
                self.tokens <= generated <= most
            ),
        }
        self.wrong += [f"counts differ: {text}" for text, right in checks.items() if not right]

    async def _until_idle(self) -> None:
        """A client that hung up is noticed a moment later."""
        for _try in range(50):
            found = await _metrics(self.client)
            if not found["deepseek_slots_busy"] and not found["deepseek_queue_requests"]:
                return
            await asyncio.sleep(0.1)
        self.wrong.append(f"{found['deepseek_slots_busy']:.0f} slots are still taken")


async def _metrics(client: Client) -> dict[str, float]:
    lines = (await client.get("/metrics")).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def resident(process: int) -> float:
    """MiB that a process has in memory."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


async def watch(process: int, samples: list[tuple[float, float]]) -> None:
    began = time.monotonic()
    while True:
        samples.append((time.monotonic() - began, resident(process)))
        await asyncio.sleep(0.25)


def growth(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB at the end of the warm-up, and by how much they grow until the end: a straight line."""
    times, sizes = np.array(samples[int(len(samples) * WARM_UP) :]).T
    slope, start = np.polyfit(times - times[0], sizes, 1)
    return float(start), float(slope * (times[-1] - times[0]))


async def run(server: Server, minutes: float, most_refused: float) -> list[str]:
    """What was wrong."""
    client = Client(server.port)
    await client.until_ready()
    soak = Soak(client)
    for ask in ASKS:
        soak.expected[ask] = await soak.whole(ask)
    most = await saturation(
        lambda number: soak.ask(KINDS[number % 2], ASKS[number % len(ASKS)]),
        2 * SLOTS,
        min(SATURATION_SECONDS, minutes * 12),
    )
    samples: list[tuple[float, float]] = []
    watching = asyncio.ensure_future(watch(server.process, samples))
    await soak.load(SHARE * most, minutes * 60)
    watching.cancel()
    await soak.compare_counts()
    if soak.refused > most_refused * soak.asked.total():
        soak.wrong.append(f"{soak.refused} of {soak.asked.total()} requests refused: overload")
    start, grown = growth(samples)
    if grown > MOST_GROWTH:
        soak.wrong.append(f"memory grows: by {grown:.1f} MiB from {start:.1f} MiB")
    print(
        f"{minutes:g} minutes at {SHARE * most:.1f} of {most:.1f} requests/s: {dict(soak.asked)}; "
        f"{soak.complete} complete, {soak.refused} refused, {soak.tokens} tokens; "
        f"memory {start:.1f} MiB {grown:+.2f} MiB"
    )
    return soak.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument(
        "--most-refused", type=float, default=MOST_REFUSED, help="share of the requests"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph"
        export(CHECKPOINT, graph)
        with serving(tiny_app, graph) as server:
            wrong = asyncio.run(run(server, arguments.minutes, arguments.most_refused))
    # what was found at the end is about all of the run
    for text in wrong[-MOST_SHOWN:]:
        print(text, file=sys.stderr)
    if len(wrong) > MOST_SHOWN:
        print(f"and {len(wrong) - MOST_SHOWN} more before", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
