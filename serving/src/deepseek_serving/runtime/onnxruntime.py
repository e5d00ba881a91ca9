"""ONNX Runtime on the CPU: past and present of the KV cache are the same buffers.

A decoder is rewritten in memory when it is loaded (`processor`), so that a sequence costs what its
own length asks for, whatever is beside it. What is not as deepseek-export makes it runs as it is:
the Attention kernel then reads the whole cache, whatever the valid lengths are. The buffers hold as
much as the longest sequence needs, rounded up, and grow when it does, so that memory is taken only
when it is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from deepseek_serving.errors import EngineError
from deepseek_serving.model_files.layout import ENCODER_FILE, GRAPH_FILE, RECORD_FILE
from deepseek_serving.runtime import Candidates, Pair
from deepseek_serving.runtime.cores import cores
from deepseek_serving.runtime.fused import CACHE_LENGTH, LAST_INDEX, LAST_KEYS
from deepseek_serving.runtime.limits import limits
from deepseek_serving.runtime.processor import for_the_processor
from deepseek_serving.runtime.texts import Texts

logger = logging.getLogger(__name__)

SMALLEST_CAPACITY = 64
# the cache is [batch, kv_heads, max_len, head_dim]
CACHE_AXIS = 2
# as ONNX Runtime names the types of a session's inputs
CACHE_TYPES: Mapping[str, type[np.float32] | type[np.float16]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
# those of a record; those that it has no CPU kernels for are refused
RECORDED_TYPES = frozenset({"float32", "float16"})


def session_options(threads: int = 0) -> ort.SessionOptions:
    """What every session on the processor has; 0 threads are as many as there are cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    # threads that spin while they wait take the cores from whatever else the host runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_kernels(record: Mapping[str, Any]) -> None:
    """EngineError if the graph is in a type that ONNX Runtime does not compute with here."""
    cache_type = record["cache"].get("type", "float32")
    if cache_type not in RECORDED_TYPES:
        raise EngineError(
            f"the graph is {record['precision']} with a cache of {cache_type}, for which ONNX "
            f"Runtime has no CPU kernels; it runs {', '.join(sorted(RECORDED_TYPES))}"
        )


def open_graph(graph: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """A session of the graph as it is."""
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def open_decoder(
    graph: Path, options: Callable[[], ort.SessionOptions] = session_options
) -> ort.InferenceSession:
    """A session of a decoder, rewritten for the processor unless it is of another make."""
    try:
        dialect = for_the_processor(graph)
    except EngineError as error:
        logger.warning("%s runs as it is, which may be slow: %s", graph, error)
        return open_graph(graph, options())
    given = options()
    # where the other weights lie, since the graph comes from memory
    directory = "session.model_external_initializers_file_folder_path"
    given.add_session_config_entry(directory, str(graph.parent))
    # copies that belong to the session: it frees those that it packs for its kernels
    values = {name: ort.OrtValue.ortvalue_from_numpy(make()) for name, make in dialect.weights}
    given.add_external_initializers(list(values), list(values.values()))
    return ort.InferenceSession(
        dialect.model.SerializeToString(), given, providers=["CPUExecutionProvider"]
    )


def _open(graph: Path, threads: int, optimized: Path | None) -> ort.InferenceSession:
    if optimized is None:
        return open_decoder(graph, partial(session_options, threads))
    options = session_options(threads)
    # ahead of time, by deepseek-engine
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_graph(optimized, options)


class _Step:
    """Buffers and bindings of one step for `batch` slots from `first` on, `width` tokens each."""

    def __init__(self, engine: OnnxRuntimeEngine, first: int, batch: int, width: int) -> None:
        self._tokens = np.zeros((batch, width), dtype=np.int64)
        self._starts = np.zeros(batch, dtype=np.int64)
        self._offsets = np.arange(width, dtype=np.int64)
        self._inputs: dict[str, npt.NDArray[np.int64 | np.int32]] = {
            "input_ids": self._tokens,
            **(self._fused(engine.capacity) if engine.fused else self._plain()),
        }
        self.outputs = {
            name: np.zeros((batch, *shape), dtype=dtype)
            for name, (shape, dtype) in engine.output_shapes.items()
        }
        self._session = engine.session
        self._binding = engine.session.io_binding()
        for name, array in self._inputs.items():
            self._bind_input(name, array)
        for name, array in self.outputs.items():
            self._bind_output(name, array)
        for name, cache in engine.caches.items():
            part = cache[first : first + batch]
            self._bind_input(f"past_{name}", part)
            self._bind_output(f"present_{name}", part)

    def _plain(self) -> dict[str, npt.NDArray[np.int64 | np.int32]]:
        self._positions = np.zeros_like(self._tokens)
        self._lengths = np.zeros_like(self._starts)
        return {
            "position_ids": self._positions,
            "write_indices": self._starts,
            "valid_lengths": self._lengths,
        }

    def _fused(self, capacity: int) -> dict[str, npt.NDArray[np.int64 | np.int32]]:
        self._last_keys = np.zeros(len(self._starts), dtype=np.int32)
        return {
            LAST_KEYS: self._last_keys,
            LAST_INDEX: np.array(len(self._offsets) - 1, dtype=np.int64),
            CACHE_LENGTH: np.array(capacity, dtype=np.int32),
        }

    def _bind_input(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Candidates:
        self._tokens[:] = tokens
        self._starts[:] = starts
        if LAST_KEYS in self._inputs:
            self._last_keys[:] = self._starts + (len(self._offsets) - 1)
        else:
            np.add(self._starts[:, None], self._offsets, out=self._positions)
            np.add(self._starts, len(self._offsets), out=self._lengths)
        self._session.run_with_iobinding(self._binding)
        return Candidates(self.outputs["top_values"], self.outputs["top_indices"])


class OnnxRuntimeEngine:
    """The exported graph in an ONNX Runtime session."""

    def __init__(
        self,
        directory: Path,
        *,
        threads: int = 0,
        slots: int | None = None,
        max_len: int | None = None,
        optimized: Path | None = None,
    ) -> None:
        """`optimized` is the same graph as deepseek-engine left it, to be run in its place."""
        record = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
        self.slots, self.max_len = limits(record, slots, max_len)
        check_kernels(record)
        cache = record["cache"]
        self.session = _open(directory / GRAPH_FILE, threads, optimized)
        inputs = {value.name: value for value in self.session.get_inputs()}
        self.fused = LAST_KEYS in inputs
        self._cache_names = [
            f"{kind}.{layer}" for layer in range(cache["layers"]) for kind in ("key", "value")
        ]
        past = inputs[f"past_{self._cache_names[0]}"]
        self._cache_type = CACHE_TYPES[past.type]
        fixed = past.shape[CACHE_AXIS]
        self._fixed_capacity = fixed if isinstance(fixed, int) else None
        self._cache_shape = (self.slots, cache["kv_heads"], cache["head_dim"])
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

    def clear(self, slot: int) -> None:
        for cache in self.caches.values():
            cache[slot] = 0

    def _grow(self, needed: int) -> None:
        """Make room for sequences of `needed` tokens; what the cache holds is kept."""
        if needed <= self.capacity:
            return
        if needed > self.max_len:
            raise EngineError(f"{needed} tokens do not fit into a cache of {self.max_len}")
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


class _EncoderSession:
    """An exported text encoder in an ONNX Runtime session."""

    def __init__(self, directory: Path, threads: int, made: str, what: str) -> None:
        """`made`: what the graph makes of texts, `embedding` or `score`."""
        record = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
        if made not in record:
            raise EngineError(f"{directory}: not {what}; deepseek-export --encoder writes one")
        self.record: Mapping[str, Any] = record[made]
        self.max_len: int = record["parameters"]["max_len"]
        self._vocabulary: int = record["vocabulary"]
        self._made = made
        self._session = open_graph(directory / ENCODER_FILE, session_options(threads))

    def run(
        self, batch: Sequence[Sequence[int]], types: Sequence[Sequence[int]] = ()
    ) -> npt.NDArray[np.float32]:
        """One row for each text; without `types` all tokens are of the first."""
        texts = Texts(batch, self.max_len, self._vocabulary)
        shape = (len(batch), texts.longest(0, len(batch)))
        tokens, mask = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        texts.write(0, len(batch), tokens, mask)
        token_types = np.zeros_like(tokens)
        for row, kinds in enumerate(types):
            token_types[row, : len(kinds)] = kinds
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": token_types}
        made: npt.NDArray[np.float32]
        (made,) = self._session.run([self._made], inputs)
        return made


class OnnxRuntimeEncoder:
    """The exported text encoder, which makes vectors."""

    def __init__(self, directory: Path, threads: int = 0) -> None:
        what = "a text encoder that makes vectors"
        self._session = _EncoderSession(directory, threads, "embedding", what)
        self.size: int = self._session.record["size"]
        self.max_len = self._session.max_len

    def embed(self, batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        return self._session.run(batch) if batch else np.empty((0, self.size), dtype=np.float32)


class OnnxRuntimeScorer:
    """The exported cross-encoder, which judges pairs."""

    def __init__(self, directory: Path, threads: int = 0) -> None:
        what = "a cross-encoder that scores pairs of texts"
        self._session = _EncoderSession(directory, threads, "score", what)
        self.activation: str = self._session.record["activation"]
        self.max_len = self._session.max_len

    def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        tokens, types = [pair.tokens for pair in pairs], [pair.types for pair in pairs]
        return self._session.run(tokens, types)[:, 0]
