"""Decoding on a GPU: ONNX Runtime's CUDA provider against transformers and the memory's bandwidth.

    python benchmarks/gpu_decode.py model DIRECTORY
    python benchmarks/gpu_decode.py ours DIRECTORY
    python benchmarks/gpu_decode.py served DIRECTORY
    python benchmarks/gpu_decode.py peer DIRECTORY --cache dynamic|static|compiled
    python benchmarks/gpu_decode.py report DIRECTORY

`model` writes a checkpoint of the shape of Qwen2.5-1.5B with random weights and the graph of it as
deepseek-export and deepseek-prepare make it, in FP16 (without the tokenizer and the judgement, for
which random weights have no use). `ours` is the engine alone, `served` the engine under the
service's scheduler; they and `peer` each are one process on the GPU, and `report` prints what they
left in DIRECTORY/figures.json beside each other.

Everybody gets the same: for each stream a prompt of PROMPT tokens, then NEW tokens, greedily.
Figures are medians of ROUNDS; tokens/s count the NEW tokens and the whole time, prompt included.
The floor is the time in which the weights pass the memory once, at the speed of a copy on the
device in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
STREAMS = (1, 8, 32)
MAX_LEN, PROMPT, NEW, ROUNDS = 2048, 32, 128, 3
SPREAD = 0.02


# --- model ----------------------------------------------------------------------------------------


def tensors() -> dict[str, tuple[int, ...]]:
    hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    size = hidden // SHAPE["num_attention_heads"]
    narrow = size * SHAPE["num_key_value_heads"]
    layer = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.q_proj.bias": (hidden,),
        "self_attn.k_proj.weight": (narrow, hidden),
        "self_attn.k_proj.bias": (narrow,),
        "self_attn.v_proj.weight": (narrow, hidden),
        "self_attn.v_proj.bias": (narrow,),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    found = {"model.embed_tokens.weight": (SHAPE["vocab_size"], hidden)}
    for number in range(SHAPE["num_hidden_layers"]):
        found |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (hidden,)}


def write_checkpoint(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(7)
    values = {}
    for name, shape in tensors().items():
        value = torch.randn(shape, device="cuda", dtype=torch.float32) * SPREAD
        values[name] = (value + 1 if "norm" in name else value).half().cpu()
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}", encoding="utf-8")


def write_graph_of(folder: Path) -> None:
    import onnx
    from deepseek_serving.export.exporter import Parameters, export
    from deepseek_serving.model_files.directories import write_json
    from deepseek_serving.model_files.graphs import write_graph
    from deepseek_serving.model_files.layout import GRAPH_FILE, RECORD_FILE
    from deepseek_serving.prepare.passes import Scaling, prepare_graph
    from deepseek_serving.prepare.precision import PRECISIONS

    exported, prepared = folder / "exported", folder / "graph"
    export(folder / "checkpoint", exported, Parameters(MAX_LEN, max(STREAMS)))
    graph = prepare_graph(
        onnx.load(exported / GRAPH_FILE, load_external_data=False),
        exported,
        PRECISIONS["fp16"],
        block=64,
        max_len=MAX_LEN,
        largest={},
        scaling=Scaling(),
    )
    prepared.mkdir()
    write_graph(prepared, GRAPH_FILE, graph.model, graph.weights)
    record = json.loads((exported / RECORD_FILE).read_text(encoding="utf-8"))
    cache = {**record["cache"], "type": "float16", "length": "fixed"}
    write_json(prepared / RECORD_FILE, {**record, "precision": "fp16", "cache": cache})


# --- measure --------------------------------------------------------------------------------------


def prompts(streams: int) -> list[list[int]]:
    random = np.random.default_rng(11)
    found: list[list[int]] = random.integers(0, SHAPE["vocab_size"], (streams, PROMPT)).tolist()
    return found


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def used_bytes() -> int:
    """Of the whole device, by all that use it."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def bandwidth() -> float:
    """Bytes per second that a copy on the device reads and writes."""
    import torch

    source = torch.empty(2**32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _round in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    del source, target
    torch.cuda.empty_cache()
    return 2 * 2**32 / statistics.median(times[2:])


class Ours:
    """The serving package's engine, driven as its scheduler drives it."""

    def __init__(self, folder: Path) -> None:
        from deepseek_serving.runtime.onnxruntime_cuda import CudaEngine

        self.engine = CudaEngine(folder / "graph")

    def generate(self, streams: int) -> tuple[list[list[int]], list[float], list[float]]:
        """Tokens, and the seconds of each prompt and each step."""
        found, prefills, steps = [], [], []
        for slot, prompt in enumerate(prompts(streams)):
            began = time.perf_counter()
            candidates = self.engine.prefill(slot, prompt, 0)
            found.append([int(candidates.tokens[0, 0])])
            prefills.append(time.perf_counter() - began)
        for length in range(PROMPT, PROMPT + NEW - 1):
            began = time.perf_counter()
            last = [tokens[-1] for tokens in found]
            candidates = self.engine.decode(last, [length] * streams)
            for tokens, token in zip(found, candidates.tokens[:, 0], strict=True):
                tokens.append(int(token))
            steps.append(time.perf_counter() - began)
        return found, prefills, steps

    def where(self) -> dict[str, dict[str, int]]:
        """How many operators of each kind run where."""
        found: dict[str, Counter[str]] = {}
        for part in self.engine.session.get_provider_graph_assignment_info():
            names = [node.op_type for node in part.get_nodes()]
            found.setdefault(part.ep_name, Counter()).update(names)
        return {name: dict(counts) for name, counts in found.items()}

    def kernels(self, streams: int, steps: int = 20) -> dict[str, Any]:
        """What the GPU does in a step: microseconds and number of each kernel, longest first."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for length in range(PROMPT, PROMPT + steps):
                self.engine.decode([1] * streams, [length] * streams)
        events = sorted(found.key_averages(), key=lambda event: -event.device_time_total)
        return {
            event.key[:110]: [
                round(event.device_time_total / steps, 2),
                round(event.count / steps, 2),
            ]
            for event in events[:30]
            if event.device_time_total
        }


def measure_ours(folder: Path) -> dict[str, Any]:
    speed = bandwidth()
    before = used_bytes()
    began = time.perf_counter()
    ours = Ours(folder)
    loaded = time.perf_counter() - began
    results: dict[str, Any] = {}
    for streams in STREAMS:
        ours.generate(streams)
        rounds = [ours.generate(streams) for _round in range(ROUNDS)]
        totals = [sum(prefills) + sum(steps) for _tokens, prefills, steps in rounds]
        results[str(streams)] = {
            "tokens_per_second": streams * NEW / statistics.median(totals),
            "step_ms": 1000 * statistics.median(s for _t, _p, steps in rounds for s in steps),
            "prefill_ms": 1000 * statistics.median(p for _t, ps, _s in rounds for p in ps),
            "tokens": rounds[0][0],
        }
        print(
            streams, {k: v for k, v in results[str(streams)].items() if k != "tokens"}, flush=True
        )
    ours.engine.prefill(0, prompts(1)[0], 0)
    logits = ours.engine.logits()[0].copy()
    np.save(folder / "logits.npy", logits)
    used = used_bytes() - before
    weights = (folder / "graph" / "decoder.onnx.data").stat().st_size
    return {
        "bandwidth": speed,
        "weights": weights,
        "floor_ms": 1000 * weights / speed,
        "load_seconds": loaded,
        "memory": used,
        "operators": ours.where(),
        "streams": results,
        "kernels": {str(streams): ours.kernels(streams) for streams in STREAMS},
    }


def measure_served(folder: Path) -> dict[str, Any]:
    """Requests that all come at once, greedy, through the scheduler that the service has."""
    from deepseek_serving.generation.sampling import Sampling
    from deepseek_serving.generation.scheduler import Limits, Request, Scheduler

    scheduler = Scheduler(Ours(folder).engine, Limits(queue=max(STREAMS), prefill_chunk=128))
    scheduler.start()

    def generate(streams: int) -> None:
        finished = [threading.Event() for _stream in range(streams)]
        requests = [
            (Request(prompt, NEW, sampling=Sampling(temperature=0)), done_by(event))
            for prompt, event in zip(prompts(streams), finished, strict=True)
        ]
        scheduler.submit_all(requests)
        for event in finished:
            event.wait()

    results = {}
    for streams in STREAMS:
        times = [seconds(partial(generate, streams)) for _round in range(2 + ROUNDS)][2:]
        results[str(streams)] = {"tokens_per_second": streams * NEW / statistics.median(times)}
        print(streams, results[str(streams)], flush=True)
    scheduler.stop()
    return {"streams": results}


def done_by(finished: threading.Event) -> Callable[[Any], None]:
    """A listener that tells when its stream has ended."""

    def listener(event: Any) -> None:
        if event.finish is not None:
            finished.set()

    return listener


def measure_peer(folder: Path, cache: str) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    before = used_bytes()
    model = AutoModelForCausalLM.from_pretrained(
        folder / "checkpoint", dtype=torch.float16, attn_implementation="sdpa"
    ).to("cuda")
    model.eval()
    options: dict[str, Any] = {"dynamic": {}, "compiled": {"cache_implementation": "static"}}.get(
        cache, {"cache_implementation": "static", "disable_compile": True}
    )
    results = {}
    for streams in STREAMS:
        ids = torch.tensor(prompts(streams), device="cuda")

        def generate(ids: Any = ids) -> Any:
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=NEW,
                max_new_tokens=NEW,
                pad_token_id=0,
                eos_token_id=None,
                **options,
            )
            torch.cuda.synchronize()
            return found

        with torch.inference_mode():
            warm = seconds(generate)
            tokens = generate()[:, PROMPT:].tolist()
            times = [seconds(generate) for _round in range(ROUNDS)]
        results[str(streams)] = {
            "tokens_per_second": streams * NEW / statistics.median(times),
            "warm_up_seconds": warm,
            "tokens": tokens,
        }
        print(streams, results[str(streams)]["tokens_per_second"], f"warm {warm:.1f}", flush=True)
    with torch.inference_mode():
        logits = model(torch.tensor(prompts(1), device="cuda")).logits[0, -1].float().cpu().numpy()
    found: dict[str, Any] = {"memory": used_bytes() - before, "streams": results}
    if (folder / "logits.npy").exists():
        mine = np.load(folder / "logits.npy")
        found["cosine"] = float(mine @ logits / np.linalg.norm(mine) / np.linalg.norm(logits))
        found["largest_difference"] = float(np.abs(mine - logits).max())
        found["same_first"] = bool(mine.argmax() == logits.argmax())
    return found


# --- report ---------------------------------------------------------------------------------------


def equal(ours: list[list[int]], theirs: list[list[int]]) -> str:
    """How many first tokens are equal, and on average how many before they part."""
    firsts = sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True))
    until = [
        next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return f"{firsts} of {len(ours)} first tokens equal, {statistics.median(until):g} on median"


def report(figures: dict[str, Any]) -> None:
    ours = figures["ours"]
    floor = ours["floor_ms"]
    print(f"copy {ours['bandwidth'] / 1e12:.2f} TB/s, weights {ours['weights'] / 1e9:.2f} GB")
    print(f"floor {floor:.2f} ms, memory {ours['memory'] / 1e9:.2f} GB, {ours['operators']}")
    for streams, mine in ours["streams"].items():
        print(
            f"{streams} streams: {mine['tokens_per_second']:.0f} tokens/s, step "
            f"{mine['step_ms']:.2f} ms = {mine['step_ms'] / floor:.2f} floors, prefill "
            f"{mine['prefill_ms']:.2f} ms"
        )
        for name, peer in figures.items():
            if name == "served":
                rate = peer["streams"][streams]["tokens_per_second"]
                print(f"  under the scheduler: {rate:.0f} tokens/s")
            elif name != "ours":
                theirs = peer["streams"][streams]
                rate = theirs["tokens_per_second"]
                print(
                    f"  transformers {name}: {rate:.0f} tokens/s, ours "
                    f"{mine['tokens_per_second'] / rate:.2f} times; "
                    + equal(mine["tokens"], theirs["tokens"])
                )
    for name, peer in figures.items():
        if name not in ("ours", "served"):
            print(name, {key: value for key, value in peer.items() if key != "streams"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("model", "ours", "served", "peer", "report"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", choices=("dynamic", "static", "compiled"), default="static")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    path = folder / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if arguments.what == "model":
        print(f"checkpoint {seconds(lambda: write_checkpoint(folder / 'checkpoint')):.1f} s")
        print(f"graph {seconds(lambda: write_graph_of(folder)):.1f} s")
    elif arguments.what == "report":
        report(figures)
    else:
        if arguments.what == "peer":
            figures[arguments.cache] = measure_peer(folder, arguments.cache)
        else:
            measured = {"ours": measure_ours, "served": measure_served}[arguments.what]
            figures[arguments.what] = measured(folder)
        path.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
