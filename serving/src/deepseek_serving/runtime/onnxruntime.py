"""ONNX Runtime on the CPU: past and present of the KV cache are the same buffers.

The Attention kernel reads the whole cache, whatever the valid lengths are. So the buffers hold as
much as the longest sequence needs, rounded up, and grow when it does: a step costs what its
sequences cost, and memory is taken only when it is used. A prepared graph has a cache of fixed
length, as TensorRT asks for, and its buffers are that long from the start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from deepseek_serving.errors import EngineError
from deepseek_serving.export.exporter import ENCODER_FILE, GRAPH_FILE
from deepseek_serving.files import RECORD_FILE
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.cores import cores
from deepseek_serving.runtime.texts import Texts

SMALLEST_CAPACITY = 64
CACHE_TYPES: Mapping[str, type[np.float32] | type[np.float16]] = {
    "float32": np.float32,
    "float16": np.float16,
}


def _session(graph: Path, threads: int, optimized: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if optimized:
        # ahead of time, by deepseek-engine
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or cores()
    # threads that spin while they wait take the cores from whatever else the host runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class _Step:
    """Buffers and bindings of one step for `batch` slots from `first` on, `width` tokens each."""

    def __init__(self, engine: OnnxRuntimeEngine, first: int, batch: int, width: int) -> None:
        self.inputs = np.zeros((batch, width), dtype=np.int64)
        self.positions = np.zeros((batch, width), dtype=np.int64)
        self.starts = np.zeros(batch, dtype=np.int64)
        self.lengths = np.zeros(batch, dtype=np.int64)
        self.offsets = np.arange(width, dtype=np.int64)
        self.outputs = {
            name: np.zeros((batch, *shape), dtype=dtype)
            for name, (shape, dtype) in engine.output_shapes.items()
        }
        self._session = engine.session
        self._binding = engine.session.io_binding()
        for name, array in (
            ("input_ids", self.inputs),
            ("position_ids", self.positions),
            ("write_indices", self.starts),
            ("valid_lengths", self.lengths),
        ):
            self._bind_input(name, array)
        for name, array in self.outputs.items():
            self._bind_output(name, array)
        for name, cache in engine.caches.items():
            part = cache[first : first + batch]
            self._bind_input(f"past_{name}", part)
            self._bind_output(f"present_{name}", part)

    def _bind_input(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Candidates:
        self.inputs[:] = tokens
        self.starts[:] = starts
        np.add(self.starts[:, None], self.offsets, out=self.positions)
        np.add(self.starts, len(self.offsets), out=self.lengths)
        self._session.run_with_iobinding(self._binding)
        return Candidates(self.outputs["top_values"], self.outputs["top_indices"])


class OnnxRuntimeEngine:
    """The exported graph in an ONNX Runtime session."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 0,
        slots: int | None = None,
        max_len: int | None = None,
        optimized: Path | None = None,
    ) -> None:
        """`optimized` is the same graph as deepseek-engine left it, to be run in its place."""
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        exported = record["parameters"]
        self.slots = exported["slots"] if slots is None else slots
        self.max_len = exported["max_len"] if max_len is None else max_len
        if self.max_len > exported["max_len"]:
            raise EngineError(
                f"engine.max_len is {self.max_len}, the graph was exported for at most "
                f"{exported['max_len']}; lower it or export again with a larger --max-len"
            )
        cache = record["cache"]
        cache_type = cache.get("type", "float32")
        if cache_type not in CACHE_TYPES:
            raise EngineError(
                f"the graph is {record['precision']} with a cache of {cache_type}, for which ONNX "
                f"Runtime has no CPU kernels; it runs {', '.join(CACHE_TYPES)}"
            )
        self._cache_type = CACHE_TYPES[cache_type]
        self._fixed_capacity = exported["max_len"] if cache.get("length") == "fixed" else None
        self.session = _session(
            optimized or folder / GRAPH_FILE, threads, optimized=optimized is not None
        )
        self._cache_shape = (self.slots, cache["kv_heads"], cache["head_dim"])
        self._cache_names = [
            f"{kind}.{layer}" for layer in range(cache["layers"]) for kind in ("key", "value")
        ]
        self.output_shapes = {
            output.name: (
                tuple(output.shape[1:]),
                np.dtype(np.int64 if output.name == "top_indices" else np.float32),
            )
            for output in self.session.get_outputs()
            if not output.name.startswith("present_")
        }
        self._last: _Step | None = None
        self.reset()

    def reset(self) -> None:
        self.capacity = 0
        self.caches: dict[str, npt.NDArray[np.float32 | np.float16]] = {}
        self._grow(1)

    def _grow(self, needed: int) -> None:
        """Make room for sequences of `needed` tokens; what the cache holds is kept."""
        if needed <= self.capacity:
            return
        capacity = max(self.capacity, SMALLEST_CAPACITY)
        while capacity < needed:
            capacity *= 2
        capacity = self._fixed_capacity or min(capacity, self.max_len)
        slots, heads, size = self._cache_shape
        for name in self._cache_names:
            # zeros: what lies beyond a sequence's end is masked, but NaN times zero is NaN
            grown = np.zeros((slots, heads, capacity, size), dtype=self._cache_type)
            if self.capacity:
                grown[:, :, : self.capacity] = self.caches[name]
            self.caches[name] = grown
        self.capacity = capacity
        # they are bound to the buffers of before
        self._decode_steps: dict[int, _Step] = {}

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self._grow(start + len(tokens))
        step = _Step(self, slot, 1, len(tokens))
        self._last = step
        return step.run([tokens], [start])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        batch = len(tokens)
        self._grow(max(lengths) + 1)
        if batch not in self._decode_steps:
            self._decode_steps[batch] = _Step(self, 0, batch, 1)
        step = self._decode_steps[batch]
        self._last = step
        return step.run([[token] for token in tokens], lengths)

    def logits(self) -> npt.NDArray[np.float32]:
        if self._last is None or "logits" not in self._last.outputs:
            raise EngineError("the graph has no output logits")
        return self._last.outputs["logits"]


class OnnxRuntimeEncoder:
    """The exported text encoder in an ONNX Runtime session."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if "embedding" not in record:
            raise EngineError(f"{folder}: not a text encoder; deepseek-export --encoder writes one")
        self.size: int = record["embedding"]["size"]
        self.max_len: int = record["parameters"]["max_len"]
        self._vocabulary: int = record["vocabulary"]
        self._session = _session(folder / ENCODER_FILE, threads)

    def embed(self, batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        texts = Texts(batch, self.max_len, self._vocabulary)
        if not batch:
            return np.empty((0, self.size), dtype=np.float32)
        shape = (len(batch), texts.longest(0, len(batch)))
        tokens, mask = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        texts.write(0, len(batch), tokens, mask)
        inputs = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(tokens),
        }
        embedding: npt.NDArray[np.float32]
        (embedding,) = self._session.run(["embedding"], inputs)
        return embedding
