"""Write an exported decoder in another precision once it has passed the gate, or nothing."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

import deepseek_serving
from deepseek_serving.artifacts.hashing import sha256_file
from deepseek_serving.artifacts.names import RESERVED
from deepseek_serving.errors import GateError, PrepareError
from deepseek_serving.model_files.directories import (
    new_directory,
    refuse_existing,
    refuse_without_space,
    write_json,
)
from deepseek_serving.model_files.graphs import size_of_weights, write_graph
from deepseek_serving.model_files.layout import GOLDEN_FILE, GRAPH_FILE, RECORD_FILE, data_file
from deepseek_serving.prepare import evaluation
from deepseek_serving.prepare.corpus import Corpus, Windows, read_corpus, refuse_overlap, windows
from deepseek_serving.prepare.golden import Golden
from deepseek_serving.prepare.passes import SMALLEST_BLOCK, Graph, prepare_graph
from deepseek_serving.prepare.precision import PRECISIONS, Precision, Thresholds
from deepseek_serving.prepare.smoothing import Smoothed, smooth, unsmoothed
from deepseek_serving.prepare.tensors import read_model
from deepseek_serving.text.documents import load_tokenizer

DATA_FILE = data_file(GRAPH_FILE)
EVALUATION_FILE = "evaluation.json"
# what belongs to the exported artifact alone: its graph, its record, its manifest and signature
NOT_COPIED = frozenset(
    {GRAPH_FILE, DATA_FILE, RECORD_FILE, EVALUATION_FILE, GOLDEN_FILE} | set(RESERVED)
)
CACHE_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True)
class Options:
    """What is asked for; thresholds left out are the precision's own."""

    precision: str
    held_out: Path | None = None
    calibration: Path | None = None
    block_size: int = 64
    window: int = 512
    calibration_tokens: int = 16384
    held_out_tokens: int = 16384
    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None
    max_kl_divergence: float | None = None
    threads: int = 0


@dataclass(frozen=True)
class _Text:
    corpus: Corpus
    windows: Windows

    def record(self) -> dict[str, Any]:
        return {
            "sha256": self.corpus.sha256,
            "documents": self.windows.documents,
            "tokens": self.windows.tokens,
        }


@dataclass(frozen=True)
class _Job:
    """Everything that was checked before the work begins."""

    directory: Path
    options: Options
    precision: Precision
    thresholds: Thresholds
    record: Mapping[str, Any]
    source: onnx.ModelProto
    held_out: _Text
    calibration: _Text | None


def prepare(directory: Path, out: Path, options: Options) -> evaluation.Result:
    """Prepare the exported `directory` as the new directory `out`; what the gate measured."""
    job = _check(directory, out, options)
    smoothed = Smoothed()
    if job.calibration is not None:
        magnitudes = evaluation.channel_magnitudes(
            job.source, directory, job.calibration.windows, options.threads
        )
        int8 = job.precision.weight_type == onnx.TensorProto.INT8
        smoothed = smooth(job.source, directory, magnitudes) if int8 else unsmoothed(magnitudes)
    graph = prepare_graph(
        job.source,
        directory,
        job.precision,
        block=options.block_size,
        max_len=job.record["parameters"]["max_len"],
        largest=smoothed.largest,
        scaling=smoothed.scaling,
    )
    copied = [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in NOT_COPIED
    ]
    needed = sum(path.stat().st_size for path in copied) + size_of_weights(graph.weights)
    refuse_without_space(out, needed, PrepareError)
    with new_directory(out) as partial:
        for path in copied:
            copy = partial / path.relative_to(directory)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        return _write_all(job, graph, partial)


# --- before anything is written -------------------------------------------------------------------


def _check(directory: Path, out: Path, options: Options) -> _Job:
    precision = PRECISIONS.get(options.precision)
    if precision is None:
        raise PrepareError(
            f"--precision {options.precision} is unknown; known: {', '.join(PRECISIONS)}"
        )
    _check_numbers(options)
    refuse_existing(out, PrepareError)
    record = _read_record(directory)
    if options.held_out is None:
        raise PrepareError(
            "--held-out FILE is needed: nothing is written whose accuracy has not been measured"
        )
    if precision.activations and options.calibration is None:
        raise PrepareError(
            f"--calibration FILE is needed: {precision.name} quantises activations, and their "
            "scales are measured on text, never invented"
        )
    if not precision.activations and options.calibration is not None:
        raise PrepareError(
            f"--calibration has no use in {precision.name}, which quantises no activations; "
            "leave it out"
        )
    source = read_model(directory / GRAPH_FILE)
    held_out, calibration = _read_texts(directory, options, record["parameters"]["max_len"])
    return _Job(
        directory,
        options,
        precision,
        _thresholds(precision, options),
        record,
        source,
        held_out,
        calibration,
    )


def _check_numbers(options: Options) -> None:
    size = options.block_size
    if size < SMALLEST_BLOCK or size & (size - 1):
        raise PrepareError(f"--block-size {size} must be a power of two, at least {SMALLEST_BLOCK}")
    for name in ("window", "calibration_tokens", "held_out_tokens"):
        if getattr(options, name) < 2:
            raise PrepareError(f"--{name.replace('_', '-')} must be at least 2")
    if options.threads < 0:
        raise PrepareError(f"--threads {options.threads} must not be negative")
    for name in ("max_perplexity_increase", "min_top1_agreement", "max_kl_divergence"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise PrepareError(f"--{name.replace('_', '-')} {value} must not be negative")


def _read_record(directory: Path) -> Mapping[str, Any]:
    path = directory / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        precision, max_len = record["precision"], record["parameters"]["max_len"]
        cache = record["cache"]
    except FileNotFoundError as error:
        raise PrepareError(
            f"{path}: no such file; deepseek-export writes such a directory"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PrepareError(f"{path}: not what deepseek-export writes: {error!r}") from error
    if precision != "fp32" or not isinstance(max_len, int) or not isinstance(cache, dict):
        raise PrepareError(
            f"{path}: the graph is {precision}; an fp32 graph from deepseek-export is needed"
        )
    checked: Mapping[str, Any] = record
    return checked


def _read_texts(directory: Path, options: Options, max_len: int) -> tuple[_Text, _Text | None]:
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise PrepareError(f"{path}: no such file; the texts cannot be read without it")
    tokenizer = load_tokenizer(directory)
    length = min(options.window, max_len)

    def read(path: Path, limit: int) -> _Text:
        corpus = read_corpus(path)
        text = _Text(corpus, windows(corpus, tokenizer, length=length, limit=limit))
        if not text.windows.sequences:
            raise PrepareError(f"{path}: no document of at least two tokens")
        return text

    assert options.held_out is not None
    held_out = read(options.held_out, options.held_out_tokens)
    if options.calibration is None:
        return held_out, None
    calibration = read(options.calibration, options.calibration_tokens)
    refuse_overlap(calibration.corpus, held_out.corpus)
    return held_out, calibration


def _thresholds(precision: Precision, options: Options) -> Thresholds:
    usual = precision.thresholds

    def choose(asked: float | None, default: float) -> float:
        return default if asked is None else asked

    return Thresholds(
        choose(options.max_perplexity_increase, usual.perplexity_increase),
        choose(options.min_top1_agreement, usual.top1_agreement),
        choose(options.max_kl_divergence, usual.kl_divergence),
    )


# --- writing --------------------------------------------------------------------------------------


def _write_all(job: _Job, graph: Graph, partial: Path) -> evaluation.Result:
    write_graph(partial, GRAPH_FILE, graph.model, graph.weights)
    golden = Golden()
    # judged is what was written, read back
    result = evaluation.compare(
        (job.source, job.directory),
        (read_model(partial / GRAPH_FILE), partial),
        job.held_out.windows,
        job.options.threads,
        golden.add,
    )
    failed = evaluation.failures(result, job.thresholds)
    if failed:
        raise GateError(
            f"accuracy gate failed, nothing was written: {job.precision.name} of {job.directory} "
            f"on {job.held_out.corpus.path}, {result.predictions} predictions: " + "; ".join(failed)
        )
    judged = {
        "schema": 1,
        "method": evaluation.METHOD,
        "held_out": job.held_out.record(),
        "thresholds": asdict(job.thresholds),
        "passed": True,
        **result.record(),
    }
    write_json(partial / EVALUATION_FILE, judged)
    write_json(partial / GOLDEN_FILE, golden.record())
    write_json(partial / RECORD_FILE, _record(job, graph, judged))
    return result


def _record(job: _Job, graph: Graph, judged: dict[str, Any]) -> dict[str, Any]:
    cache_type = CACHE_TYPES[job.precision.float_type]
    arguments: dict[str, Any] = {"precision": job.precision.name, "window": job.options.window}
    if job.precision.weight_type == onnx.TensorProto.INT4:
        arguments["block_size"] = job.options.block_size
    return {
        **job.record,
        "precision": job.precision.name,
        "cache": {**job.record["cache"], "type": cache_type, "length": "fixed"},
        "preparation": {
            "arguments": arguments,
            "calibration": job.calibration.record() if job.calibration else None,
            "quantized": graph.quantized,
            "not_quantized": graph.kept,
            "source": {
                name: sha256_file(str((job.directory / name).resolve()))
                for name in (GRAPH_FILE, DATA_FILE, RECORD_FILE)
            },
            "tools": {
                "deepseek-serving": deepseek_serving.__version__,
                "ml_dtypes": ml_dtypes.__version__,
                "numpy": np.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
                "python": platform.python_version(),
            },
        },
        "evaluation": judged,
    }
