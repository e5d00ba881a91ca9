"""The engine on the processor against onnxruntime-genai: tokens per second and memory.

    python benchmarks/genai.py [--directory DIRECTORY] [--rounds N] [--json FILE]

Run it in the environment of the serving tests with serving/requirements-bench.txt in it, and with
nothing else on the machine. Both get the same checkpoint, the shape of Qwen2.5-0.5B with random
weights, in FP32 and with the matrices of its layers in blocks of 32 weights of 4 bits, and the same
number of threads. Each side and precision is a process of its own. The two take turns; figures are
medians over the rounds, and the peak of each process's resident memory at its end.

What is compared:

    1 stream      a prompt of 32 tokens and 24 steps of decoding; the steps are timed
    8 together    8 such prompts that come and end at the same moment: what suits a static batch
    8 clients     each asks again once it has its answer; prompts of 8 to 64 tokens, answers whose
                  lengths are exponential (mean 24, 2 to 96 tokens); all of their time counts

Ours runs the clients with the service's scheduler. On the processor onnxruntime-genai has a static
batch: its Generator takes sequences together, pads prompts to the longest on the left, and goes on
until the last of them has ended. So its 8 clients are served as a server around it would: all that
wait make the next batch. Its Engine class has no more to offer there (its continuous batching needs
a CUDA device). Tokens per second are those that were asked for; a static batch computes more.

Its 4-bit model keeps embedding and head as they are, as ours does. Its model builder can quantise
both too: those rows, `whole`, are its own default and are not a comparison at equal precision.

The goals for 8 streams hold for the clients: that is what a service gets. Together, both read the
same weights at each step with the same kernels of ONNX Runtime, and no engine can be twice as fast.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
from load import CHECKPOINT, Measure, report

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
PRECISIONS = ("fp32", "int4")
BLOCK = 32
STREAMS = 8
PROMPT, NEW = 32, 24
SHORTEST_PROMPT, LONGEST_PROMPT = 8, 64
MEAN_ANSWER, SHORTEST_ANSWER, LONGEST_ANSWER = 24, 2, 96
CLIENT_REQUESTS = 2
MAX_LEN = 256
# ordinary tokens: neither the padding nor an end
FIRST_TOKEN = 10
GOALS = {"1": 1.0, "clients": 2.0, "memory": 1 / 1.2}

Prompt = list[int]
# a prompt, and how many tokens are asked for
Asked = tuple[Prompt, int]


# --- the models -----------------------------------------------------------------------------------


def write_checkpoint(folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**SHAPE)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)


def write_ours(folder: Path) -> None:
    """As deepseek-export and deepseek-prepare make it, but for the judgement of random weights."""
    import onnx
    from deepseek_serving.export.exporter import Parameters, export
    from deepseek_serving.model_files.directories import write_json
    from deepseek_serving.model_files.graphs import write_graph
    from deepseek_serving.model_files.layout import GRAPH_FILE, RECORD_FILE
    from deepseek_serving.prepare.passes import Scaling, prepare_graph
    from deepseek_serving.prepare.precision import PRECISIONS as KNOWN

    exported, prepared = folder / "ours-fp32", folder / "ours-int4"
    export(folder / "checkpoint", exported, Parameters(MAX_LEN, STREAMS))
    graph = prepare_graph(
        onnx.load(exported / GRAPH_FILE, load_external_data=False),
        exported,
        KNOWN["int4"],
        block=BLOCK,
        max_len=MAX_LEN,
        largest={},
        scaling=Scaling(),
    )
    prepared.mkdir()
    write_graph(prepared, GRAPH_FILE, graph.model, graph.weights)
    record = json.loads((exported / RECORD_FILE).read_text(encoding="utf-8"))
    cache = {**record["cache"], "type": "float16", "length": "fixed"}
    write_json(prepared / RECORD_FILE, {**record, "precision": "int4", "cache": cache})


def write_theirs(folder: Path) -> None:
    kept = "nodes_to_exclude=/lm_head/MatMul,/model/embed_tokens/Gather"
    for name, precision, options in (
        ("fp32", "fp32", ["shared_embeddings=true"]),
        ("int4", "int4", ["shared_embeddings=true", f"block_size={BLOCK}", kept]),
        ("whole", "int4", ["shared_embeddings=true", f"block_size={BLOCK}"]),
    ):
        subprocess.run(
            [
                *(sys.executable, "-m", "onnxruntime_genai.models.builder"),
                *("-i", str(folder / "checkpoint"), "-o", str(folder / f"theirs-{name}")),
                *("-p", precision, "-e", "cpu", "-c", str(folder / "builder")),
                *("--extra_options", *options),
            ],
            check=True,
            capture_output=True,
        )


def write_models(folder: Path) -> None:
    for name, write in (
        ("checkpoint", lambda: write_checkpoint(folder / "checkpoint")),
        ("ours-int4", lambda: write_ours(folder)),
        ("theirs-whole", lambda: write_theirs(folder)),
    ):
        if not (folder / name).exists():
            print(f"writing {name} ...", file=sys.stderr)
            write()


# --- what is asked --------------------------------------------------------------------------------


def together(streams: int) -> list[Asked]:
    random = np.random.default_rng(11)
    prompts = random.integers(FIRST_TOKEN, SHAPE["vocab_size"], (streams, PROMPT)).tolist()
    return [(prompt, NEW) for prompt in prompts]


def clients() -> list[list[Asked]]:
    """For each client what it asks, one after the other."""
    random = np.random.default_rng(12)

    def one() -> Asked:
        length = int(random.integers(SHORTEST_PROMPT, LONGEST_PROMPT + 1))
        prompt = random.integers(FIRST_TOKEN, SHAPE["vocab_size"], length).tolist()
        answer = int(np.clip(random.exponential(MEAN_ANSWER), SHORTEST_ANSWER, LONGEST_ANSWER))
        return prompt, answer

    return [[one() for _request in range(CLIENT_REQUESTS)] for _client in range(STREAMS)]


# --- the two sides, each in a process of its own --------------------------------------------------


class Side(Protocol):
    """What answers."""

    def together(self, asked: Sequence[Asked]) -> tuple[float, list[Prompt]]:
        """Seconds of decoding alone, and the tokens."""

    def clients(self, asked: Sequence[Sequence[Asked]]) -> float:
        """Seconds until the last client has its last answer."""


class Ours:
    """The engine, and for the clients the service's scheduler."""

    def __init__(self, folder: Path, threads: int) -> None:
        from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine

        self._engine = OnnxRuntimeEngine(folder, threads=threads, slots=STREAMS)

    def together(self, asked: Sequence[Asked]) -> tuple[float, list[Prompt]]:
        engine = self._engine
        found = [
            [int(engine.prefill(slot, prompt, 0).tokens[0, 0])]
            for slot, (prompt, _count) in enumerate(asked)
        ]
        began = time.perf_counter()
        for step in range(NEW):
            last = [tokens[-1] for tokens in found]
            best = engine.decode(last, [PROMPT + step] * len(last)).tokens[:, 0]
            for tokens, token in zip(found, best, strict=True):
                tokens.append(int(token))
        return time.perf_counter() - began, found

    def clients(self, asked: Sequence[Sequence[Asked]]) -> float:
        from deepseek_serving.generation.scheduler import Event, Limits, Request, Scheduler

        scheduler = Scheduler(self._engine, Limits(prefill_chunk=LONGEST_PROMPT))
        scheduler.start()

        def go_on(requests: Sequence[Asked]) -> None:
            for prompt, count in requests:
                ended = threading.Event()

                def listener(event: Event, ended: threading.Event = ended) -> None:
                    if event.finish is not None:
                        ended.set()

                scheduler.submit(Request(prompt, count), listener)
                ended.wait()

        workers = [threading.Thread(target=go_on, args=(requests,)) for requests in asked]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        taken = time.perf_counter() - began
        scheduler.stop()
        return taken


class Theirs:
    """onnxruntime-genai with its batch generator."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai as og

        og.disable_telemetry_events()
        self._og = og
        config = og.Config(str(folder))
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self._model = og.Model(config)
        self._padding = json.loads((folder / "genai_config.json").read_text())["model"][
            "pad_token_id"
        ]

    def _batch(self, asked: Sequence[Asked]) -> Any:
        """A generator that has read the prompts, and the first token of each answer."""
        longest = max(len(prompt) for prompt, _count in asked)
        most = max(count for _prompt, count in asked)
        parameters = self._og.GeneratorParams(self._model)
        # no end before that: random weights may say it at any time
        length = longest + most
        parameters.set_search_options(
            do_sample=False, batch_size=len(asked), max_length=length, min_length=length
        )
        generator = self._og.Generator(self._model, parameters)
        padded = [
            [self._padding] * (longest - len(prompt)) + list(prompt) for prompt, _count in asked
        ]
        generator.append_tokens(np.array(padded, dtype=np.int32))
        generator.generate_next_token()
        return generator

    def together(self, asked: Sequence[Asked]) -> tuple[float, list[Prompt]]:
        generator = self._batch([(prompt, count + 1) for prompt, count in asked])
        began = time.perf_counter()
        for _step in range(NEW):
            generator.generate_next_token()
        taken = time.perf_counter() - began
        sequences = [generator.get_sequence(row) for row in range(len(asked))]
        return taken, [[int(token) for token in tokens[PROMPT:]] for tokens in sequences]

    def clients(self, asked: Sequence[Sequence[Asked]]) -> float:
        """Whose answer has come asks again, and waits for the batch to end."""
        began = time.perf_counter()
        for batch in zip(*asked, strict=True):
            generator = self._batch(batch)
            for _step in range(max(count for _prompt, count in batch) - 1):
                generator.generate_next_token()
        return time.perf_counter() - began


def memory() -> float:
    """MB of this process at its peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024 * 1.048576
    raise SystemExit("the kernel tells no VmHWM")


def work(kind: str, folder: Path, threads: int) -> None:
    """Answer each line of input with one of output."""
    side: Side = Ours(folder, threads) if kind == "ours" else Theirs(folder, threads)
    for line in sys.stdin:
        what = line.strip()
        if what == "memory":
            answer: dict[str, Any] = {"value": memory()}
        elif what == "clients":
            asked = clients()
            tokens = sum(count for requests in asked for _prompt, count in requests)
            answer = {"value": tokens / side.clients(asked)}
        else:
            seconds, found = side.together(together(int(what)))
            answer = {"value": int(what) * NEW / seconds, "first": [t[:4] for t in found]}
        print(json.dumps(answer), flush=True)


class Worker:
    """A side in its process."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions, self._answers = questions, answers

    def ask(self, what: str) -> dict[str, Any]:
        self._questions.write(f"{what}\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise SystemExit("a side ended early; nothing was measured")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def worker(kind: str, folder: Path, threads: int) -> Iterator[Worker]:
    process = subprocess.Popen(
        [sys.executable, __file__, "--work", kind, str(folder), "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        questions, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        yield Worker(questions, answers)
        questions.close()


# --- measure --------------------------------------------------------------------------------------


def against(value: float, other: float, unit: str, goal: float | None) -> Measure:
    """`ratio` is ours over theirs, and of memory theirs over ours: at least the goal is good."""
    ratio = other / value if unit == "MB" else value / other
    rounded = None if goal is None else round(goal, 3)
    return Measure(round(value, 1), unit, round(other, 1), round(ratio, 3), rounded)


def differ(answers: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(answers["ours"]["first"] != answers["theirs"]["first"])


def compare(
    folder: Path, precision: str, arguments: argparse.Namespace
) -> Iterator[tuple[str, Measure]]:
    names = ["ours", "theirs"] + (["whole"] if precision == "int4" else [])
    rates: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                worker(
                    "ours" if name == "ours" else "theirs",
                    folder / (f"theirs-{name}" if name == "whole" else f"{name}-{precision}"),
                    arguments.threads,
                )
            )
            for name in names
        }
        for what in ("1", str(STREAMS), "clients"):
            # the clients find both warm
            for turn in range(1 if what == "clients" else 0, arguments.rounds + 1):
                answers = {name: side.ask(what) for name, side in sides.items()}
                if (precision, what) == ("fp32", "1") and differ(answers):
                    raise SystemExit("the two do not give the same tokens; nothing was measured")
                values = {name: answer["value"] for name, answer in answers.items()}
                shown = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
                print(f"{precision} {what}: {shown} tokens/s", file=sys.stderr, flush=True)
                for name, value in values.items() if turn else ():
                    rates.setdefault(what, {}).setdefault(name, []).append(value)
        peaks = {name: side.ask("memory")["value"] for name, side in sides.items()}
    middle = {
        what: {name: statistics.median(values) for name, values in found.items()}
        for what, found in rates.items()
    }
    for other in names[1:]:
        mark = "" if other == "theirs" else "_whole"
        goals = GOALS if other == "theirs" else {}
        for what, label in (
            ("1", "1_stream"),
            (str(STREAMS), "8_together"),
            ("clients", "8_clients"),
        ):
            found = middle[what]
            goal = goals.get(what)
            yield (
                f"{precision}_{label}{mark}",
                against(found["ours"], found[other], "tokens/s", goal),
            )
        yield (
            f"{precision}_memory{mark}",
            against(peaks["ours"], peaks[other], "MB", goals.get("memory")),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, help="keeps the models, 5 GB, for the next run")
    parser.add_argument("--precision", choices=PRECISIONS, help="one of the two only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--work", nargs=2, metavar=("SIDE", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], Path(arguments.work[1]), arguments.threads)
        return
    results: dict[str, Measure] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        write_models(folder)
        for precision in (arguments.precision,) if arguments.precision else PRECISIONS:
            results |= dict(compare(folder, precision, arguments))
    report(results, arguments.json)


if __name__ == "__main__":
    main()
