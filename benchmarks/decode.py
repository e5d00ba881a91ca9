"""Tokens per second of the service's engine, against transformers and against memory bandwidth.

    python benchmarks/decode.py [--checkpoint DIRECTORY | --random] [--json FILE]

Run it in the environment of the serving tests. Ours and transformers take turns on the same
checkpoint, in FP32, greedy, with the same number of threads; figures are medians. The floor is the
time that the weights take once through memory, at the bandwidth of a large copy measured in the
same run. The shipped checkpoint fits into the processor's cache, so its figures are those of
overhead; `--random` makes one of about 100 million parameters with random weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from deepseek_serving.export.exporter import Parameters, export
from deepseek_serving.model_files.layout import GRAPH_FILE
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHIPPED = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "checkpoint"
BATCHES = (1, 4)
PROMPT = 64


@dataclass(frozen=True)
class Measure:
    """`ratio` is value over against; the goal is for the ratio, None where none is set."""

    value: float
    unit: str
    against: float
    ratio: float
    goal: float | None


def measure(value: float, against: float, goal: float | None) -> Measure:
    return Measure(round(value, 1), "tokens/s", round(against, 1), round(value / against, 3), goal)


def random_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=16384,
        hidden_size=896,
        intermediate_size=2432,
        num_hidden_layers=10,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second, read and written, of a copy far larger than the caches."""
    source = np.ones(2**28 // 8)
    target = np.empty_like(source)
    target[:] = source
    best = min(seconds(lambda: np.copyto(target, source)) for _round in range(rounds))
    return 2 * source.nbytes / best


def weight_bytes(graph: Path) -> int:
    """What one decode step reads: every matrix, vector and the output table, once."""
    model = onnx.load(graph / GRAPH_FILE, load_external_data=False)
    gathered = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    elsewhere = {
        name for node in model.graph.node if node.op_type != "Gather" for name in node.input
    }
    total = 0
    for tensor in model.graph.initializer:
        table = tensor.name.startswith("rotary_") or tensor.name in gathered - elsewhere
        if not table:
            total += 4 * int(np.prod(tensor.dims, dtype=np.int64))
    return total


class Ours:
    """The service's engine, without the service."""

    def __init__(self, graph: Path, threads: int) -> None:
        self.engine = OnnxRuntimeEngine(graph, threads=threads, slots=max(BATCHES))

    def prefill(self, prompt: list[int]) -> None:
        self.engine.prefill(0, prompt, 0)

    def decode(self, prompt: list[int], batch: int, count: int) -> list[int]:
        """Seconds per token are measured without the prefill, as for the other."""
        last = [int(self.engine.prefill(n, prompt, 0).tokens[0, 0]) for n in range(batch)]
        tokens = [last[0]]
        self.began = time.perf_counter()
        for step in range(count):
            candidates = self.engine.decode(last, [len(prompt) + step] * batch)
            last = [int(token) for token in candidates.tokens[:, 0]]
            tokens.append(last[0])
        self.taken = time.perf_counter() - self.began
        return tokens


class Theirs:
    """transformers with its KV cache."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def prefill(self, prompt: list[int]) -> Any:
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([prompt]), logits_to_keep=1)

    def decode(self, prompt: list[int], batch: int, count: int) -> list[int]:
        with torch.inference_mode():
            inputs = torch.tensor([prompt] * batch)
            output = self.model(input_ids=inputs, use_cache=True, logits_to_keep=1)
            last = output.logits[:, -1].argmax(-1, keepdim=True)
            tokens = [int(last[0])]
            self.began = time.perf_counter()
            for _step in range(count):
                output = self.model(input_ids=last, past_key_values=output.past_key_values)
                last = output.logits[:, -1].argmax(-1, keepdim=True)
                tokens.append(int(last[0]))
            self.taken = time.perf_counter() - self.began
        return tokens


def compare(
    ours: Ours, theirs: Theirs, limit: float, arguments: argparse.Namespace
) -> dict[str, Measure]:
    vocabulary = theirs.model.config.vocab_size
    prompt = np.random.default_rng(1).integers(3, vocabulary, PROMPT).tolist()
    results = {}
    for batch in BATCHES:
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _round in range(arguments.rounds):
            answers = []
            for name, runner in (("ours", ours), ("theirs", theirs)):
                answers.append(runner.decode(prompt, batch, arguments.tokens))
                rates[name].append(batch * arguments.tokens / runner.taken)
            if answers[0][:8] != answers[1][:8]:
                raise SystemExit("the two do not give the same tokens; nothing was measured")
        mine, other = (statistics.median(rates[name]) for name in ("ours", "theirs"))
        results[f"decode_batch_{batch}_vs_transformers"] = measure(mine, other, 1.0)
        if batch == 1:
            results["decode_batch_1_vs_bandwidth"] = measure(mine, limit, None)
    mine, other = (
        statistics.median(
            PROMPT / seconds(partial(runner.prefill, prompt)) for _round in range(arguments.rounds)
        )
        for runner in (ours, theirs)
    )
    results[f"prefill_{PROMPT}_vs_transformers"] = measure(mine, other, 1.0)
    return results


def show(results: dict[str, Measure]) -> None:
    width = max(map(len, results))
    print(f"{'measure':<{width}}  {'value':>10}  {'against':>10}  {'ratio':>6}  goal")
    for name, m in results.items():
        goal = "-" if m.goal is None else f"{m.goal:g}"
        print(f"{name:<{width}}  {m.value:>10}  {m.against:>10}  {m.ratio:>6}  {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, default=SHIPPED)
    source.add_argument("--random", action="store_true", help="100 million random parameters")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = arguments.checkpoint
        if arguments.random:
            checkpoint = random_checkpoint(folder / "checkpoint")
        export(checkpoint, folder / "graph", Parameters(slots=max(BATCHES)))
        bandwidth = copy_bandwidth(arguments.rounds)
        size = weight_bytes(folder / "graph")
        print(f"weights {size / 1e6:.1f} MB, copy {bandwidth / 1e9:.1f} GB/s")
        ours, theirs = Ours(folder / "graph", arguments.threads), Theirs(checkpoint)
        results = compare(ours, theirs, bandwidth / size, arguments)
    show(results)
    if arguments.json:
        data = {name: asdict(result) for name, result in results.items()}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
