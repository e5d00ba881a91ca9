"""Whether any input is answered with a status of 500 or more.

    python benchmarks/fuzz_api.py [--seeds N] [--examples N] [--mutations N] [--json FILE]

Run it in the environment of the serving tests, with serving/tests in PYTHONPATH. The shipped
checkpoint is served by a process of its own. Of each seed, schemathesis makes `--examples` requests
that the service's document admits, evenly over its POST endpoints: each must be answered, or be
refused for a reason that serving/tests/document.py lists. Then `--mutations` bodies are sent that
were right until bytes in them were changed, cut, doubled or swapped for other JSON: those must be
answered with anything below 500. The exit status says whether that is so.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import schemathesis
from deepseek_serving.export.exporter import export
from document import is_listed
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from latency import MODEL, tiny_app
from load import CHECKPOINT, Measure, report, serving

Item = TypeVar("Item")

# 429: the queue is full; 404: a name that the document has and another part of the path has not
FINE = frozenset({200, 404, 429})
JSON = {"content-type": "application/json"}
SEEDS, EXAMPLES, MUTATIONS = 3, 3000, 100_000
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "What is a release?"}
WEATHER = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}]}
# all of them right, and short
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"messages": [USER], "max_tokens": 1}),
    (CHAT, {"messages": [USER], "max_tokens": 1, "stream": True, "stop": ["a", "b"], "n": 2}),
    (CHAT, {"messages": [USER], "max_tokens": 1, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"messages": [USER], "max_tokens": 1, "logit_bias": {"5": 1.5}, "seed": 7, "top_k": 3}),
    (CHAT, {"messages": [USER], "max_tokens": 1, "tools": [WEATHER]}),
    (CHAT, {"messages": [USER], "max_tokens": 1, "response_format": {"type": "json_object"}}),
    (CHAT, {"messages": [PARTS], "max_tokens": 1}),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 1, "echo": True, "logprobs": 1}),
    (COMPLETIONS, {"prompt": [[5, 6], [7]], "max_tokens": 1, "min_tokens": 1}),
    ("/tokenize", {"prompt": "a b c", "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
)  # fmt: skip
# what is put in for a piece of a body
ODD = (
    b"null", b"true", b"-1", b"1e400", b"9" * 400, b"0.5", b'""', b"[]", b"{}", b"[[]]",
    b'"\\ud800"', b"NaN", b"\xff", b"\x00", b'{"type":"text"}', b"[null]", b"[" * 200,
    b'"' + b"x" * 3000 + b'"',
)  # fmt: skip


def counted(requests: int) -> Measure:
    return Measure(requests, "requests", None, None, None)


class Chance:
    """The same changes in every run."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)

    def below(self, most: int) -> int:
        return int(self._random.integers(most))

    def of(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def junk(self, size: int) -> bytes:
        return bytes(self._random.bytes(size))


def mutated(body: bytes, chance: Chance) -> bytes:
    """One to three changes."""
    for _change in range(1 + chance.below(3)):
        begin = chance.below(len(body) + 1)
        end = min(len(body), begin + chance.of((0, 1, 2, 8, 40)))
        new = chance.of((b"", chance.of(ODD), body[begin:end] * 2, chance.junk(end - begin or 1)))
        body = body[:begin] + new + body[end:]
    return body


def swapped(body: dict[str, Any], chance: Chance) -> bytes:
    """The value of one member is other JSON."""
    text = json.dumps({**body, chance.of(sorted(body)): "MARK"}).encode()
    return text.replace(b'"MARK"', chance.of(ODD), 1)


def mutations(count: int) -> Iterator[tuple[str, bytes]]:
    chance = Chance()
    for _number in range(count):
        path, body = chance.of(BODIES)
        named = {"model": MODEL, **body}
        if chance.below(3):
            yield path, mutated(json.dumps(named).encode(), chance)
        else:
            yield path, swapped(named, chance)


def admitted(client: httpx.Client, number: int, examples: int) -> tuple[Counter[int], list[str]]:
    """Statuses, and what was refused without a listed reason."""
    document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    paths = [path for path, operations in document["paths"].items() if "post" in operations]
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    for path in paths:
        cases = schema[path]["POST"].as_strategy()
        found, refused = tried(client, path, cases, (number, max(1, examples // len(paths))))
        statuses += found
        wrong += refused
    return statuses, wrong


def tried(
    client: httpx.Client, path: str, cases: SearchStrategy[Any], size: tuple[int, int]
) -> tuple[Counter[int], list[str]]:
    """The same for one endpoint; `size`: the seed, and how many requests."""
    statuses: Counter[int] = Counter()
    wrong: list[str] = []

    @seed(size[0])
    @settings(
        max_examples=size[1],
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Any) -> None:
        # long answers say nothing of the input
        body = {**case.body, "max_tokens": 1} if "max_tokens" in case.body else case.body
        reply = client.post(path, content=json.dumps(body), headers=JSON)
        statuses[reply.status_code] += 1
        if reply.status_code in FINE:
            return
        error = reply.json()["error"]
        if not is_listed(error["code"], error["message"], error["param"]):
            wrong.append(f"{path} {reply.status_code} {error['message'][:200]}")

    send()
    return statuses, wrong


def run(client: httpx.Client, options: argparse.Namespace) -> tuple[dict[str, Measure], list[str]]:
    measures: dict[str, Measure] = {}
    wrong: list[str] = []
    for number in range(1, options.seeds + 1):
        statuses, refused = admitted(client, number, options.examples)
        wrong += refused
        measures[f"seed {number}: admitted requests"] = counted(statuses.total())
        measures[f"seed {number}: refused without a listed reason"] = counted(len(refused))
    statuses = Counter()
    for path, body in mutations(options.mutations):
        status = client.post(path, content=body, headers=JSON).status_code
        statuses[status] += 1
        if status >= 500:
            wrong.append(f"{path} {status} {body[:200]!r}")
    measures["mutated bodies"] = counted(statuses.total())
    for status, count in sorted(statuses.items()):
        measures[f"mutated bodies answered with {status}"] = counted(count)
    return measures, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the API.")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--mutations", type=int, default=MUTATIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "graph")
        export(CHECKPOINT, graph)
        with serving(tiny_app, graph) as server:
            # `serving` switches it off, for those who measure time
            gc.enable()
            # it takes seconds until it listens
            transport = httpx.HTTPTransport(retries=8)
            url = f"http://127.0.0.1:{server.port}"
            with httpx.Client(base_url=url, timeout=60, transport=transport) as client:
                measures, wrong = run(client, options)
    report(measures, options.json)
    for line, count in Counter(wrong).most_common(20):
        print(f"{count} x {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
