"""Seconds of an engine build, cost of an export, and what each precision loses.

    python benchmarks/engine.py [--json FILE] [--rounds N] [--export-bytes N]

Run it in the environment of the serving tests. Engines are those of the shipped checkpoint, built
with TensorRT-RTX ahead of time, each by the command as operators call it. Figures are medians.
A ratio is value over against; goals of seconds and memory are upper limits of the ratio.
"Unchanged" is the whole command on a graph padded to 1 GB, hashed by the run before. The export's
peer is what the same disk takes of as many bytes, both synchronised, measured in turns. Its peak
memory includes pages of files that it has mapped. Gate figures are over the gate's own limits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from deepseek_serving.export.exporter import export
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare
from deepseek_serving.text.tokenizer import ChatTokenizer
from safetensors.torch import save_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "tests" / "fixtures" / "checkpoint"
QUESTIONS = ROOT / "serving" / "training" / "questions.toml"
TARGETS = {"fp16": "8.0", "bf16": "8.0", "int8": "8.0", "int4": "8.0", "fp8": "8.9"}
GRAPH_BYTES = 10**9
UNCHANGED_GOAL = 1.0
BLOCK = b"\xa5" * 2**24
# A process begins with its parent's peak, and this one's is large: a small one in between.
BETWEEN = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


@dataclass(frozen=True)
class Measure:
    """`ratio` is value over against, None where there is nothing to compare with or to measure."""

    value: float | None
    unit: str
    against: float | None = None
    ratio: float | None = None
    goal: float | None = None
    note: str = ""


def measure(
    value: float, unit: str, against: float | None = None, goal: float | None = None, note: str = ""
) -> Measure:
    ratio = None if not against else float(f"{value / against:.3g}")
    limit = None if against is None else float(f"{against:.4g}")
    return Measure(float(f"{value:.4g}"), unit, limit, ratio, goal, note)


@dataclass(frozen=True)
class Run:
    """A command that ended: what it printed, its seconds, and the most memory it had (bytes)."""

    output: str
    seconds: float
    peak: int


def run(name: str, *arguments: object) -> Run:
    """A console script of this environment."""
    line = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", BETWEEN, *line], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}: {done.stderr}")
    *_said, peak = done.stderr.split()
    # Linux counts it in KiB
    return Run(done.stdout, seconds, int(peak) * 1024)


# --- engines --------------------------------------------------------------------------------------


def write_texts(folder: Path, graph: Path) -> tuple[Path, Path]:
    """Calibration and held-out text: every other trained conversation."""
    tokenizer = ChatTokenizer(graph)
    entries = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["entry"]
    documents = [
        tokenizer.text([{"role": "user", "content": question}]) + entry["answer"] + "<|im_end|>\n"
        for entry in entries
        for question in entry["questions"]
    ]
    paths = folder / "calibration.jsonl", folder / "held-out.jsonl"
    for path, part in zip(paths, (documents[::2], documents[1::2]), strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return paths


def prepare_all(folder: Path) -> dict[str, Path]:
    export(SHIPPED, folder / "fp32")
    calibration, held_out = write_texts(folder, folder / "fp32")
    for name, precision in PRECISIONS.items():
        wanted = calibration if precision.activations else None
        prepare(folder / "fp32", folder / name, Options(name, held_out, wanted))
    return {name: folder / name for name in PRECISIONS}


def build(graph: Path, dest: Path, capability: str, *more: str) -> Run:
    target = ("--flavour", "tensorrt_rtx", "--compute-capability", capability)
    return run("deepseek-engine", "build", graph / "decoder.onnx", dest, *target, *more)


def cold_builds(
    prepared: dict[str, Path], folder: Path, rounds: int
) -> Iterator[tuple[str, Measure]]:
    for name, capability in TARGETS.items():
        seconds = []
        for _round in range(rounds):
            dest = folder / f"{name}-engine"
            seconds.append(build(prepared[name], dest, capability).seconds)
            shutil.rmtree(dest)
        yield (
            f"build_cold_{name}_sm{capability.replace('.', '')}",
            measure(statistics.median(seconds), "s"),
        )


def without_timing_cache() -> Measure:
    note = "TensorRT-RTX compiles without timing kernels, so it has no timing cache"
    return Measure(None, "s", note=note)


def settle(*folders: Path) -> None:
    """Give the files an age at which their hashes are remembered."""
    then = time.time() - 60
    for folder in folders:
        for path in folder.iterdir():
            os.utime(path, (then, then))


def unchanged(prepared: Path, folder: Path, rounds: int) -> Iterator[tuple[str, Measure]]:
    """Of a graph of 1 GB: what follows the last weight belongs to the file, and is hashed."""
    graph, dest = folder / "graph", folder / "engine"
    shutil.copytree(prepared, graph)
    with (graph / "decoder.onnx.data").open("ab") as file:
        while file.tell() < GRAPH_BYTES:
            file.write(BLOCK)
    build(graph, dest, "8.0")
    settle(graph, dest)
    first = build(graph, dest, "8.0").seconds
    seconds = []
    for _round in range(rounds):
        again = build(graph, dest, "8.0")
        if json.loads(again.output)["changed"]:
            raise SystemExit("it was built again; nothing was measured")
        seconds.append(again.seconds)
    note = f"after {first:.1f} s in the run that hashed it"
    yield (
        "unchanged_1gb_hashed",
        measure(statistics.median(seconds), "s", UNCHANGED_GOAL, 1.0, note),
    )


# --- export ---------------------------------------------------------------------------------------


def random_checkpoint(folder: Path, size: int) -> Path:
    """Qwen2 with as many layers as `size` bytes of BF16 hold, in one file."""
    hidden, inner, heads, kv_heads, vocabulary = 1536, 8960, 12, 2, 32000
    folder.mkdir()
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16) * 0.02

    kv = hidden // heads * kv_heads
    tensors = {
        "model.embed_tokens.weight": random(vocabulary, hidden),
        "model.norm.weight": random(hidden),
    }
    layer_bytes = 2 * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner)
    layers = max(1, round((size - 2 * vocabulary * hidden) / layer_bytes))
    for number in range(layers):
        for name, shape in {
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.bias": (kv,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }.items():
            tensors[f"model.layers.{number}.{name}"] = random(*shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    config.update(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=layers,
        layer_types=["full_attention"] * layers,
        max_window_layers=layers,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SHIPPED / name, folder / name)
    return folder


def synchronised(path: Path) -> float:
    """Seconds until the file is on the disk."""
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - began


def plain_write(path: Path, size: int) -> float:
    """Seconds that the disk takes for as many bytes, with nothing to compute."""
    began = time.perf_counter()
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(BLOCK[: size - file.tell()])
    seconds = time.perf_counter() - began + synchronised(path)
    path.unlink()
    return seconds


def exports(folder: Path, size: int, rounds: int) -> Iterator[tuple[str, Measure]]:
    checkpoint = random_checkpoint(folder / "checkpoint", size)
    source = (checkpoint / "model.safetensors").stat().st_size
    rates: dict[str, list[float]] = {"export": [], "disk": []}
    peaks = []
    for _round in range(rounds):
        done = run("deepseek-export", checkpoint, folder / "out")
        data = folder / "out" / "decoder.onnx.data"
        written = data.stat().st_size
        rates["export"].append(written / (done.seconds + synchronised(data)))
        peaks.append(done.peak)
        shutil.rmtree(folder / "out")
        rates["disk"].append(written / plain_write(folder / "plain", written))
    mine, disk = (statistics.median(rates[name]) / 1e6 for name in ("export", "disk"))
    note = f"{source / 1e6:.0f} MB of BF16, written as {written / 1e6:.0f} MB of FP32"
    yield "export_write", measure(mine, "MB/s", disk, note=note)
    yield (
        "export_peak_memory",
        measure(statistics.median(peaks) / 1e6, "MB", source / 1e6, 1.0, "against the checkpoint"),
    )


# --- gate -----------------------------------------------------------------------------------------


def gate(prepared: dict[str, Path]) -> Iterator[tuple[str, Measure]]:
    for name, folder in prepared.items():
        found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        limits = found["thresholds"]
        increase, limit = found["perplexity"]["increase"], limits["perplexity_increase"]
        yield f"gate_{name}_perplexity_increase", measure(increase, "share", limit)
        agreement, least = found["top1_agreement"], limits["top1_agreement"]
        yield f"gate_{name}_top1_agreement", measure(agreement, "share", least)
        divergence, most = found["kl_divergence"]["mean"], limits["kl_divergence"]
        yield f"gate_{name}_kl_divergence", measure(divergence, "nats", most)


def show(results: dict[str, Measure]) -> None:
    width = max(map(len, results))
    print(f"{'measure':<{width}}  {'value':>10}  {'unit':<5}  {'against':>8}  {'ratio':>8}  goal")
    for name, m in results.items():
        value, against, ratio, goal = (
            "-" if number is None else f"{number:g}"
            for number in (m.value, m.against, m.ratio, m.goal)
        )
        row = f"{name:<{width}}  {value:>10}  {m.unit:<5}  {against:>8}  {ratio:>8}  {goal}"
        print(row + (f"  ({m.note})" if m.note else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--export-bytes", type=int, default=10**9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare_all(folder)
        results = dict(cold_builds(prepared, folder, arguments.rounds))
        results["build_timing_cache"] = without_timing_cache()
        results.update(unchanged(prepared["fp16"], folder, arguments.rounds))
        results.update(exports(folder, arguments.export_bytes, min(3, arguments.rounds)))
        results.update(gate(prepared))
    show(results)
    if arguments.json:
        data = {name: asdict(result) for name, result in results.items()}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
