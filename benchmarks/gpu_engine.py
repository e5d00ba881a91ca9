"""The TensorRT runtime on a GPU: right answers, its overhead, streams, precisions, CUDA graphs.

    python benchmarks/gpu_engine.py prepare DIRECTORY --encoder GRAPH --decoder GRAPH --texts FILES
    python benchmarks/gpu_engine.py measure DIRECTORY [--json FILE]

`prepare` runs in the environment of the serving tests, on any machine: it writes the graphs, an
INT8 one calibrated with the texts, and what ONNX Runtime answers in FP32. `measure` needs a GPU,
TensorRT 8.6 or newer, cuda-bindings and NumPy, and nothing else: it builds the engines there, runs
them through the serving package's runtime, and compares. Figures are medians of one run, each
beside its peer's; the peer of the runtime is TensorRT itself: `execute_async_v3` on tensors that
are on the device already, and waiting for the stream.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_engine_graphs import (
    BATCH,
    CHUNK,
    LARGE_BATCH,
    LARGE_WIDTH,
    SLOTS,
    WIDTH,
    cosines,
    greedy,
    prepare,
)
from gpu_engine_plans import Builder, decoder_profiles, encoder_profiles

PRECISIONS = ("fp32", "fp16", "int8")
# cosine of each embedding with that of ONNX Runtime in FP32
GOALS = {"fp32": 0.999, "fp16": 0.999, "int8": None}


@dataclass(frozen=True)
class Measure:
    """`ratio` is value over against; the goal is for the ratio, None where none is set."""

    value: float
    unit: str
    against: float
    ratio: float
    goal: float | None


def measure(value: float, unit: str, against: float, goal: float | None = None) -> Measure:
    return Measure(round(value, 4), unit, round(against, 4), round(value / against, 3), goal)


# --- measure --------------------------------------------------------------------------------------


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def in_turns(actions: dict[str, Callable[[], object]], rounds: int = 300) -> dict[str, float]:
    """Median milliseconds of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 30):
        for name, action in actions.items():
            taken = seconds(action)
            if turn >= 30:
                times[name].append(1000 * taken)
    return {name: statistics.median(values) for name, values in times.items()}


class Bare:
    """execute_async_v3 at one shape, and nothing around it."""

    def __init__(self, plan: Any, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        self.stream = plan.gpu.stream(urgent=False)
        self.scratch = plan.scratch("the peer")
        self.context = plan.context(profile, self.scratch, self.stream.handle)
        for name, shape in shapes.items():
            self.context.set_input_shape(name, shape)
        self.memory = []
        for name in plan.tensors:
            wide = 8 * int(np.prod(shapes[name])) if name in shapes else 0
            size = wide or int(self.context.get_max_output_size(name))
            self.memory.append(plan.gpu.allocate(size, name, "use another GPU"))
            self.context.set_tensor_address(name, self.memory[-1].address)

    def __call__(self) -> None:
        self.context.execute_async_v3(self.stream.handle)
        self.stream.synchronize()


class Encoders:
    """The text encoder in each precision."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self.builder = Builder()
        self.engines: dict[str, Any] = {}
        ids = [token for text in facts["judged"] for token in text]
        self.batches = {
            (rows, width): [
                [ids[(row * width + place) % len(ids)] for place in range(width)]
                for row in range(rows)
            ]
            for rows, width in ((BATCH, WIDTH), (LARGE_BATCH, LARGE_WIDTH))
        }

    def build(self, precision: str) -> Iterator[tuple[str, Measure]]:
        from deepseek_serving.runtime.tensorrt_encoder import TensorRtEncoder

        name = "encoder_int8.onnx" if precision == "int8" else "encoder.onnx"
        began = time.perf_counter()
        plan = self.builder.build(self.folder / name, encoder_profiles(), precision)
        taken = time.perf_counter() - began
        print(f"encoder {precision}: built in {taken:.1f} s, {len(plan) / 1e6:.1f} MB", flush=True)
        record = self.facts["records"]["encoder"]
        self.engines[precision] = TensorRtEncoder(plan, record, flavour="tensorrt", streams=4)
        expected = np.array(self.facts["embeddings"], dtype=np.float32)
        found = self.engines[precision].embed(self.facts["judged"])
        again = self.engines[precision].embed(self.facts["judged"])
        # the second time it is a CUDA graph
        lowest = min(cosines(found, expected).min(), cosines(again, expected).min())
        goal = GOALS[precision]
        yield f"encoder_{precision}_lowest_cosine", measure(float(lowest), "", 1.0, goal)

    def overhead(self, precision: str) -> Iterator[tuple[str, Measure]]:
        """A batch of lists of token ids in, an array out; with and without CUDA graphs."""
        encoder = self.engines[precision]
        for (rows, width), batch in self.batches.items():
            shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (rows, width))
            bare = Bare(encoder._plan, 0, shapes)

            def embed(batch: Any = batch, encoder: Any = encoder) -> None:
                encoder.embed(batch)

            times = in_turns({"ours": embed, "bare": bare})
            goal = 1.15 if (rows, width) == (BATCH, WIDTH) else None
            yield (
                f"encoder_{precision}_{rows}x{width}_vs_execute_async_v3",
                measure(times["ours"], "ms", times["bare"], goal),
            )

    def plain(self, precision: str) -> Iterator[tuple[str, Measure]]:
        """The same without CUDA graphs."""
        from deepseek_serving.runtime.tensorrt_encoder import TensorRtEncoder

        usual = self.engines[precision]
        batch = self.batches[BATCH, WIDTH]
        other = TensorRtEncoder.__new__(TensorRtEncoder)
        other.__dict__.update(usual.__dict__)
        other._lanes = type(usual._lanes)()
        other._lanes.put(usual._new_lane())
        other._graphs = type(usual._graphs)()
        other._graphs.refused = True
        shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (BATCH, WIDTH))
        bare = Bare(usual._plan, 0, shapes)
        times = in_turns({"ours": lambda: other.embed(batch), "bare": bare})
        yield (
            f"encoder_{precision}_{BATCH}x{WIDTH}_without_graph_vs_execute_async_v3",
            measure(times["ours"], "ms", times["bare"], 1.15),
        )

    def rate(self, encoder: Any, batch: Any, threads: int, span: float = 0.7) -> float:
        """Texts per second of so many threads."""
        counts = [0] * threads
        stop = threading.Event()

        def work(number: int) -> None:
            while not stop.is_set():
                encoder.embed(batch)
                counts[number] += len(batch)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        time.sleep(span)
        stop.set()
        for worker in workers:
            worker.join()
        return sum(counts) / (time.perf_counter() - began)

    def rates(self, shape: tuple[int, int], runs: dict[str, tuple[str, int]]) -> dict[str, float]:
        """Medians of texts per second, (precision, threads) by name, in turns."""
        batch, found = self.batches[shape], {name: [] for name in runs}  # type: ignore[var-annotated]
        for turn in range(6):
            for name, (precision, threads) in runs.items():
                value = self.rate(self.engines[precision], batch, threads)
                if turn:
                    found[name].append(value)
        return {name: statistics.median(values) for name, values in found.items()}

    def streams(self, precision: str) -> Iterator[tuple[str, Measure]]:
        for rows, width in self.batches:
            rates = self.rates((rows, width), {str(n): (precision, n) for n in (1, 2, 4)})
            for count in ("1", "2", "4"):
                yield (
                    f"encoder_{precision}_{rows}x{width}_{count}_streams",
                    measure(rates[count], "texts/s", rates["1"]),
                )

    def precisions(self) -> Iterator[tuple[str, Measure]]:
        for rows, width in self.batches:
            runs = {precision: (precision, 1) for precision in self.engines}
            rates = self.rates((rows, width), runs)
            for precision, rate in rates.items():
                yield (
                    f"encoder_{rows}x{width}_{precision}_vs_fp32",
                    measure(rate, "texts/s", rates["fp32"]),
                )


class Decoders:
    """The decoder's class itself, on the lowered graph."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        from deepseek_serving.runtime.tensorrt_decoder import TensorRtEngine

        self.facts = facts
        record = facts["records"]["decoder"]
        began = time.perf_counter()
        plan = Builder().build(folder / "decoder.onnx", decoder_profiles(record), "fp32")
        taken = time.perf_counter() - began
        print(f"decoder fp32: built in {taken:.1f} s, {len(plan) / 1e6:.1f} MB", flush=True)

        def engine() -> Any:
            return TensorRtEngine(plan, record, flavour="tensorrt", slots=SLOTS)

        self.engine, self.plain = engine(), engine()
        self.plain._graphs.refused = True

    def answers(self) -> Iterator[tuple[str, Measure]]:
        """Greedy tokens of every prompt, the first of them alone and all at once."""
        expected = self.facts["answers"]
        total = same = 0
        for engine in (self.engine, self.plain):
            for chunk in (CHUNK, 7):
                engine.reset()
                found = greedy(engine, self.facts["prompts"], chunk)
                for one, other in zip(found, expected, strict=True):
                    total += len(other)
                    same += sum(a == b for a, b in zip(one, other, strict=True))
            alone = greedy(engine, self.facts["prompts"][:1], CHUNK)[0]
            total += len(alone)
            same += sum(a == b for a, b in zip(alone, expected[0], strict=True))
        logits = self.engine.logits()
        if not np.isfinite(logits).all():
            raise RuntimeError("the decoder gives logits that are not finite")
        yield "decoder_tokens_as_onnxruntime", measure(same, "tokens", total, 1.0)

    def steps(self) -> Iterator[tuple[str, Measure]]:
        cache = self.facts["records"]["decoder"]["cache"]
        for batch in (1, SLOTS):
            row = (batch, cache["kv_heads"], self.engine.max_len, cache["head_dim"])
            shapes: dict[str, tuple[int, ...]] = {
                "input_ids": (batch, 1),
                "position_ids": (batch, 1),
                "write_indices": (batch,),
            }
            for name in self.engine._cache_names:
                shapes[f"past_{name}"] = row
            bare = Bare(self.engine._plan, 0, shapes)
            tokens, lengths = [5] * batch, [100] * batch

            with_graph = partial(self.engine.decode, tokens, lengths)
            without = partial(self.plain.decode, tokens, lengths)
            times = in_turns({"graph": with_graph, "plain": without, "bare": bare})
            yield (
                f"decode_batch_{batch}_vs_execute_async_v3",
                measure(times["graph"], "ms", times["bare"], 1.15),
            )
            yield (
                f"decode_batch_{batch}_without_graph_vs_execute_async_v3",
                measure(times["plain"], "ms", times["bare"], 1.15),
            )

    def beside(self, encoders: Encoders) -> Iterator[tuple[str, Measure]]:
        """A decode step while texts are embedded all the time, against one without."""
        stop = threading.Event()
        encoder, batch = encoders.engines["fp32"], encoders.batches[LARGE_BATCH, LARGE_WIDTH]
        tokens, lengths = [5] * SLOTS, [100] * SLOTS
        done = [0]

        def embed() -> None:
            while not stop.is_set():
                encoder.embed(batch)
                done[0] += 1

        def decode() -> None:
            self.engine.decode(tokens, lengths)

        alone = in_turns({"decode": decode})["decode"]
        worker = threading.Thread(target=embed)
        worker.start()
        try:
            beside = in_turns({"decode": decode})["decode"]
        finally:
            stop.set()
            worker.join()
        if not done[0]:
            raise RuntimeError("no embedding was made beside the decoder")
        one = in_turns({"embed": lambda: encoder.embed(batch)}, 50)["embed"]
        yield f"decode_batch_{SLOTS}_beside_embedding_vs_alone", measure(beside, "ms", alone)
        yield f"decode_batch_{SLOTS}_beside_embedding_vs_one_embedding", measure(beside, "ms", one)


def refusals(encoders: Encoders) -> None:
    """What TensorRT says of a damaged plan, for the documentation."""
    from deepseek_serving.errors import EngineError
    from deepseek_serving.runtime.tensorrt_encoder import TensorRtEncoder

    try:
        TensorRtEncoder(b"no plan" * 100, encoders.facts["records"]["encoder"], flavour="tensorrt")
    except EngineError as error:
        print(f"refused as it should be: {error}")


class Report:
    """Collects the measures, and what broke."""

    def __init__(self) -> None:
        self.results: dict[str, Measure] = {}
        self.failed = False

    def add(self, section: Callable[[], Iterator[tuple[str, Measure]]]) -> None:
        """A section that fails does not take the others with it."""
        try:
            for name, result in section():
                self.results[name] = result
                print(f"{name}: {result}", flush=True)
        except Exception:  # reported, and the exit status says so
            traceback.print_exc()
            self.failed = True

    def show(self) -> None:
        width = max(map(len, self.results), default=7)
        print(f"{'measure':<{width}}  {'value':>12}  {'against':>12}  {'ratio':>6}  goal")
        for name, m in self.results.items():
            goal = "-" if m.goal is None else f"{m.goal:g}"
            print(f"{name:<{width}}  {m.value:>12g}  {m.against:>12g}  {m.ratio:>6}  {goal}")


def measure_all(arguments: argparse.Namespace) -> int:
    import tensorrt as trt
    from deepseek_serving.runtime.cuda import Gpu

    folder: Path = arguments.folder
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    gpu = Gpu()
    print(f"{gpu.name}, compute capability {gpu.capability}, TensorRT {trt.__version__}")
    report, encoders = Report(), Encoders(folder, facts)
    for precision in arguments.precisions:
        report.add(lambda precision=precision: encoders.build(precision))
    for precision in encoders.engines:
        report.add(lambda precision=precision: encoders.overhead(precision))
        report.add(lambda precision=precision: encoders.plain(precision))
    decoders: list[Decoders] = []

    def answers() -> Iterator[tuple[str, Measure]]:
        decoders.append(Decoders(folder, facts))
        yield from decoders[0].answers()

    report.add(answers)
    if decoders:
        report.add(decoders[0].steps)
        report.add(lambda: decoders[0].beside(encoders))
    for precision in encoders.engines:
        report.add(lambda precision=precision: encoders.streams(precision))
    report.add(encoders.precisions)
    refusals(encoders)
    report.show()
    if arguments.json:
        data = {name: asdict(result) for name, result in report.results.items()}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return 1 if report.failed else 0


PROMPTS = [
    "<|im_start|>user\nWhat is a zone?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
    "What does the gateway do, and why does its key stay in a token?",
    "The store holds three copies of every release, and",
    "one",
    "Compute capability, driver and product name are part of the engine's key, because",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "A slot is a sequence's place in the batch. A slot is a sequence's place in the batch. A slot",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    before = commands.add_parser("prepare", help="write what `measure` needs; any machine")
    before.add_argument("folder", type=Path)
    before.add_argument("--encoder", required=True, type=Path, help="of deepseek-export --encoder")
    before.add_argument("--decoder", required=True, type=Path, help="of deepseek-export")
    before.add_argument(
        "--texts", required=True, type=Path, nargs="+", help="to calibrate and judge"
    )
    before.set_defaults(prompts=PROMPTS)
    there = commands.add_parser("measure", help="build and measure; needs a GPU")
    there.add_argument("folder", type=Path)
    there.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    there.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments)
        return 0
    return measure_all(arguments)


if __name__ == "__main__":
    sys.exit(main())
