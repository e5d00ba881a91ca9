"""ONNX Runtime's CUDA provider: every operator on the GPU, and nothing else in host memory.

The KV cache is bound in place: a layer's past and present are the same memory of the device. Token
ids go in and candidates come out through pinned memory, one copy each, on the stream that the
provider works on; logits stay on the device until they are asked for. A decode step is captured as
a CUDA graph for each batch size.

cuDNN makes a plan for each width of a prompt's chunk, which takes longer than many chunks do. So
chunks have few widths: what a chunk lacks is filled with tokens that no other sees, whose place in
the cache belongs to the tokens that come next.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from deepseek_serving.errors import EngineError
from deepseek_serving.model_files.layout import GRAPH_FILE, RECORD_FILE, data_file
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.cuda import Gpu, Layout, Memory, aligned, layout_size
from deepseek_serving.runtime.fused import LAST_INDEX, LAST_KEYS, Joined, fused
from deepseek_serving.runtime.limits import check_bounds, limits

logger = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
# the types that GroupQueryAttention has CUDA kernels for, as the record names precision and cache
PRECISIONS: Mapping[str, int] = {
    "fp16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
}
CACHE_ITEM_BYTES = 2
REMEDY = "lower engine.slots, prepare a graph with a smaller max_len, or free the GPU"
PROVIDER_OPTIONS: Mapping[str, str] = {
    "enable_cuda_graph": "1",
    # the next power of two would be up to twice the weights
    "arena_extend_strategy": "kSameAsRequested",
}
# runs with this annotation are not captured
NO_GRAPH = -1
# a chunk's width is a power of two from the first on, and then a multiple of the second
NARROWEST, WIDE = 16, 128


def _check_provider() -> None:
    if PROVIDER not in ort.get_available_providers():
        raise EngineError(
            f"engine.provider is cuda, and the ONNX Runtime installed here ({ort.__version__}) has "
            "no CUDA provider; install onnxruntime-gpu in place of onnxruntime "
            "(serving/requirements-cuda.in)"
        )


def _check_precision(record: Mapping[str, Any]) -> None:
    precision = record["precision"]
    if precision not in PRECISIONS:
        raise EngineError(
            f"engine.provider is cuda, and the graph is {precision}; the CUDA provider runs "
            f"{' and '.join(PRECISIONS)}: set model.precision to one that the release has"
        )


def _session(graph: Path, max_len: int, gpu: Gpu, stream: int) -> ort.InferenceSession:
    """All of the graph on the GPU; EngineError names what is not."""
    options = ort.SessionOptions()
    for key, value in (
        # where the weights lie, since the graph comes from memory
        ("session.model_external_initializers_file_folder_path", str(graph.parent)),
        ("session.record_ep_graph_assignment_info", "1"),
        # beside the arena, which would round their sizes up
        ("session.use_device_allocator_for_initializers", "1"),
    ):
        options.add_session_config_entry(key, value)
    provider = {
        "device_id": str(gpu.device),
        "user_compute_stream": str(stream),
        **PROVIDER_OPTIONS,
    }
    source = onnx.load(graph, load_external_data=False)
    made = fused(source, max_len)
    values = _joined(graph, source, made.joined)
    options.add_external_initializers(list(values), list(values.values()))
    ort.preload_dlls()
    try:
        session = ort.InferenceSession(
            made.model.SerializeToString(), options, providers=[(PROVIDER, provider)]
        )
    except Exception as error:
        # ONNX Runtime's errors share no base class
        raise EngineError(
            f"{graph}: the CUDA provider does not load it on GPU {gpu.device} ({gpu.name}): "
            f"{' '.join(str(error).split())}"
        ) from error
    _check_assignment(session, graph)
    return session


def _joined(
    graph: Path, source: onnx.ModelProto, joined: Mapping[str, Joined]
) -> dict[str, ort.OrtValue]:
    """The weights that lie side by side; their bits are only moved, whatever their type is."""
    tensors = {tensor.name: tensor for tensor in source.graph.initializer}
    data = np.memmap(graph.with_name(data_file(graph.name)), dtype=np.uint8, mode="r")

    def bits(name: str) -> npt.NDArray[np.uint16]:
        place = {entry.key: entry.value for entry in tensors[name].external_data}
        begin = int(place["offset"])
        part = data[begin : begin + int(place["length"])]
        view: npt.NDArray[np.uint16] = part.view(np.uint16).reshape(tensors[name].dims)
        return view

    return {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            np.concatenate([bits(part) for part in made.parts], axis=made.axis),
            tensors[made.parts[0]].data_type,
        )
        for name, made in joined.items()
    }


def _check_assignment(session: ort.InferenceSession, graph: Path) -> None:
    """ONNX Runtime runs on the processor, without an error, what a provider does not take."""
    if PROVIDER not in session.get_providers():
        raise EngineError(
            "engine.provider is cuda, and ONNX Runtime could not start its CUDA provider; its "
            "reason is in the log: most often a CUDA library that is not installed"
        )
    elsewhere = [
        f"{node.op_type} ({node.name})"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]
    if elsewhere:
        raise EngineError(
            f"{graph}: ONNX Runtime {ort.__version__} has no CUDA kernels for "
            f"{', '.join(sorted(elsewhere))}, which would run on the processor; use the "
            "onnxruntime-gpu of serving/requirements-cuda.in, or engine.provider cpu"
        )


def _run_options(graph_id: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    # the stream is waited for once, after the copies
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


class _Step:
    """Bindings of one step for `batch` slots from `first` on, `width` tokens each."""

    def __init__(self, engine: CudaEngine, first: int, batch: int, width: int, graph: int) -> None:
        self._engine = engine
        self._options = _run_options(graph)
        self._binding = engine.session.io_binding()
        self._width = width
        inputs, outputs = _inputs(batch, width), engine.outputs(batch)
        self._sizes = layout_size(inputs), layout_size(outputs)
        self.inputs = self._bind(self._binding.bind_input, inputs, *engine.inbound)
        self.outputs = self._bind(self._binding.bind_output, outputs, *engine.outbound)
        if engine.logits_memory is not None:
            row = (batch, engine.vocabulary)
            self._at(self._binding.bind_output, "logits", np.float32, row, engine.logits_memory)
        shape = (batch, *engine.cache_row)
        for name, memory in engine.cache.items():
            offset = first * engine.slot_bytes
            for bind, kind in (
                (self._binding.bind_input, "past"),
                (self._binding.bind_output, "present"),
            ):
                self._at(bind, f"{kind}_{name}", engine.cache_type, shape, memory, offset)

    def _at(
        self,
        bind: Any,
        name: str,
        kind: Any,
        shape: Sequence[int],
        memory: Memory,
        offset: int = 0,
    ) -> None:
        bind(name, "cuda", self._engine.gpu.device, kind, shape, memory.address + offset)

    def _bind(
        self, bind: Any, layout: Layout, host: Any, memory: Memory
    ) -> dict[str, npt.NDArray[Any]]:
        views, offset = {}, 0
        for name, (shape, kind) in layout.items():
            views[name] = host.view(offset, shape, kind)
            self._at(bind, name, kind, shape, memory, offset)
            offset += aligned(math.prod(shape) * kind.itemsize)
        return views

    def run(self, tokens: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> None:
        engine, stream = self._engine, self._engine.stream
        (host_in, device_in), (host_out, device_out) = engine.inbound, engine.outbound
        given = tokens.shape[1]
        self.inputs["input_ids"][:, :given] = tokens
        self.inputs["input_ids"][:, given:] = 0
        self.inputs[LAST_KEYS][:] = starts + self._width - 1
        self.inputs[LAST_INDEX][...] = given - 1
        stream.to_device(device_in.address, host_in.address, self._sizes[0])
        engine.session.run_with_iobinding(self._binding, self._options)
        stream.to_host(host_out.address, device_out.address, self._sizes[1])
        stream.synchronize()


def _inputs(batch: int, width: int) -> Layout:
    return {
        "input_ids": ((batch, width), np.dtype(np.int64)),
        LAST_KEYS: ((batch,), np.dtype(np.int32)),
        LAST_INDEX: ((), np.dtype(np.int64)),
    }


def padded(width: int) -> int:
    """The width that a chunk is filled up to."""
    if width > WIDE:
        return -(-width // WIDE) * WIDE
    return max(NARROWEST, 1 << (width - 1).bit_length())


class CudaEngine:
    """A prepared graph, already verified, with `slots` sequences in the GPU's memory."""

    def __init__(
        self,
        directory: Path,
        *,
        device: int = 0,
        slots: int | None = None,
        max_len: int | None = None,
    ) -> None:
        record = json.loads((directory / RECORD_FILE).read_text(encoding="utf-8"))
        self.slots, self.max_len = limits(record, slots, max_len)
        _check_provider()
        _check_precision(record)
        self.gpu = Gpu(device)
        cache, self._capacity = record["cache"], record["parameters"]["max_len"]
        self.vocabulary: int = record["vocabulary"]
        self.cache_type = PRECISIONS[record["precision"]]
        self.cache_row = (cache["kv_heads"], self._capacity, cache["head_dim"])
        self.slot_bytes = math.prod(self.cache_row) * CACHE_ITEM_BYTES
        names = [f"{kind}.{layer}" for layer in range(cache["layers"]) for kind in ("key", "value")]
        graph = directory / GRAPH_FILE
        self._check_room(graph, len(names))
        self.stream = self.gpu.stream(urgent=True)
        self.session = _session(graph, self._capacity, self.gpu, self.stream.handle)
        self._allocate(names)

    def _check_room(self, graph: Path, caches: int) -> None:
        weights = graph.with_name(data_file(graph.name)).stat().st_size
        cache = self.slots * self.slot_bytes * caches
        free = self.gpu.free_bytes()
        if weights + cache > free:
            raise EngineError(
                f"GPU {self.gpu.device} ({self.gpu.name}) has no room for the model: "
                f"{weights + cache} bytes are needed, {weights} for weights and {cache} for the "
                f"KV cache of {self.slots} slots of {self._capacity} tokens, {free} are free; "
                f"{REMEDY}"
            )

    def _allocate(self, names: Sequence[str]) -> None:
        gpu, purpose = self.gpu, f"the KV cache of {self.slots} slots"
        size = self.slots * self.slot_bytes
        self.cache = {name: gpu.allocate(size, purpose, REMEDY) for name in names}
        results = {output.name: output.shape for output in self.session.get_outputs()}
        self._top: int = results["top_values"][1]
        widest = max(layout_size(_inputs(self.slots, 1)), layout_size(_inputs(1, self._capacity)))
        self.inbound = gpu.pinned(widest), gpu.allocate(widest, "the inputs", REMEDY)
        most = layout_size(self.outputs(self.slots))
        self.outbound = gpu.pinned(most), gpu.allocate(most, "the outputs", REMEDY)
        self.logits_memory: Memory | None = None
        if "logits" in results:
            size = self.slots * self.vocabulary * np.dtype(np.float32).itemsize
            self.logits_memory = gpu.allocate(size, "the logits", REMEDY)
            self._host_logits = gpu.pinned(size)
        self._steps: dict[tuple[int, int, int], _Step] = {}
        self._warm = False
        self._last: int | None = None

    def outputs(self, batch: int) -> Layout:
        return {
            "top_values": ((batch, self._top), np.dtype(np.float32)),
            "top_indices": ((batch, self._top), np.dtype(np.int64)),
        }

    def reset(self) -> None:
        """Zeros again, so that nothing odd that a failed step left is ever multiplied."""
        self.gpu.use()
        for memory in self.cache.values():
            self.stream.clear(memory)
        self.stream.synchronize()

    def clear(self, slot: int) -> None:
        self.gpu.use()
        for memory in self.cache.values():
            self.stream.clear(memory, slot * self.slot_bytes, self.slot_bytes)
        self.stream.synchronize()

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self._warm_up()
        width = padded(len(tokens))
        if start + width > self._capacity:
            width = len(tokens)
        return self._run(self._step(slot, 1, width, NO_GRAPH), [tokens], [start])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        self._warm_up()
        batch = len(tokens)
        return self._run(self._step(0, batch, 1, batch), [[token] for token in tokens], lengths)

    def _step(self, first: int, batch: int, width: int, graph: int) -> _Step:
        # binding the caches of all layers takes longer than some steps
        key = first, batch, width
        if key not in self._steps:
            self._steps[key] = _Step(self, first, batch, width, graph)
        return self._steps[key]

    def _warm_up(self) -> None:
        """Every plan and graph, made in the thread that uses them: each thread has its own."""
        if self._warm:
            return
        self._warm = True
        began = time.monotonic()
        width = NARROWEST
        while width <= min(WIDE, self.max_len):
            self.prefill(0, [0] * width, 0)
            width *= 2
        for batch in range(1, self.slots + 1):
            self.decode([0] * batch, [0] * batch)
        self.reset()
        logger.info(
            "captured a CUDA graph for 1 to %d sequences in %.1f s",
            self.slots,
            time.monotonic() - began,
        )

    def _run(
        self, step: _Step, tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> Candidates:
        ids, begin = np.array(tokens, dtype=np.int64), np.array(starts, dtype=np.int64)
        check_bounds(ids, begin, self.max_len, self.vocabulary)
        self._last = None
        self.gpu.use()
        step.run(ids, begin)
        self._last = len(ids)
        return Candidates(step.outputs["top_values"], step.outputs["top_indices"])

    def logits(self) -> npt.NDArray[np.float32]:
        if self.logits_memory is None:
            raise EngineError("the graph has no output logits")
        if self._last is None:
            raise EngineError("there are no logits before the first step")
        self.gpu.use()
        shape = (self._last, self.vocabulary)
        view = self._host_logits.view(0, shape, np.dtype(np.float32))
        self.stream.to_host(self._host_logits.address, self.logits_memory.address, view.nbytes)
        self.stream.synchronize()
        return view
