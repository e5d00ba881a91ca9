"""TensorRT and TensorRT-RTX: plans run on the GPU that they were compiled for.

What an engine needs is allocated once. The KV cache is bound in place: a layer's past and present
are the same memory. The small inputs of a step are one block of pinned memory and one copy to the
device, its small outputs one copy back; logits stay on the device until they are asked for. A shape
that comes back is captured as a CUDA graph, copies included, and from then on started as a whole.

A decoder's stream has the highest priority and an encoder's the lowest, so that both work at the
same time and the decoder's next step does not wait for texts that are being embedded.

Which methods a TensorRT has is asked of the library: 8.6, 10, 11 and TensorRT-RTX differ in how
memory is given to a context, and in little else that is used here.
"""

from __future__ import annotations

import importlib
import logging
import math
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.cuda import (
    ALIGNMENT,
    Gpu,
    Layout,
    Memory,
    aligned,
    layout_size,
)
from deepseek_serving.runtime.limits import check_bounds, limits
from deepseek_serving.runtime.texts import Texts

logger = logging.getLogger(__name__)

Flavour = Literal["tensorrt", "tensorrt_rtx"]
MODULES: Mapping[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
DECODE, PREFILL = 0, 1
INTEGERS: Mapping[str, np.dtype[Any]] = {
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
}
FLOATS: Mapping[str, np.dtype[Any]] = {"FLOAT": np.dtype(np.float32)}
# the cache is only counted in bytes here, and its BF16 has no type in NumPy
CACHE_TYPES: Mapping[str, tuple[str, int]] = {
    "float32": ("FLOAT", 4),
    "float16": ("HALF", 2),
    "bfloat16": ("BF16", 2),
}
# shapes of an encoder that are kept with their context and graph; a text is padded up to a multiple
# of WIDTHS tokens, and the batch to a power of two, so that shapes come back
SHAPES, WIDTHS = 32, 32
LESS_CACHE = "lower engine.slots, build with a smaller max_len, or free the GPU"
# parts of TensorRT's messages, and what helps
REMEDIES: Mapping[str, str] = {
    "expecting compute": "build the engine for this GPU",
    "compute capability": "build the engine for this GPU",
    "incompatible device": "build the engine for this GPU",
    "version": "build the engine with the TensorRT that is installed here",
    "cudaerror 35": "this host has no working NVIDIA driver, or no GPU",
    "cudaerror 100": "this host has no GPU",
    "initialization failure": "this host has no working NVIDIA driver, or no GPU",
    "memory": "free memory of the GPU",
}


def import_flavour(flavour: str) -> Any:
    """The Python module of TensorRT or TensorRT-RTX."""
    if flavour not in MODULES:
        raise EngineError(f"{flavour!r} is not a flavour of TensorRT; known: {', '.join(MODULES)}")
    failures = []
    for name in MODULES[flavour]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            failures.append(f"{name}: {error}")
    raise EngineError(
        f"{flavour} cannot be imported ({'; '.join(failures)}); install the version that the "
        "engine was built with"
    )


class _Messages:
    """What TensorRT says: warnings go to the log, errors also into the EngineError."""

    def __init__(self, trt: Any) -> None:
        self._errors: list[str] = []
        collect = self._collect

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                collect(severity.name, message)

        self.logger = Logger()

    def _collect(self, severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._errors.append(message.strip())
        elif severity == "WARNING":
            logger.warning("TensorRT: %s", message.strip())

    def error(self, what: str, cause: object = None) -> EngineError:
        """With all that TensorRT said since the last time."""
        said = " | ".join([*self._errors, *([str(cause)] if cause else [])])
        self._errors.clear()
        lowered = said.lower()
        remedies = [remedy for part, remedy in REMEDIES.items() if part in lowered]
        return EngineError(
            f"{what}: {said or 'TensorRT gave no reason'}"
            + (f"; {remedies[0]}" if remedies else "")
        )


@dataclass(frozen=True)
class _Expected:
    """A tensor as the record of the graph describes it; None is a free dimension."""

    mode: Literal["INPUT", "OUTPUT"]
    types: tuple[str, ...]
    shape: tuple[int | None, ...]
    optional: bool = False


class Plan:
    """A deserialised plan on one GPU.

    `engine_host_code_allowed` stays off: a plan may not bring code for the host.
    """

    def __init__(self, plan: bytes, flavour: str, device: int) -> None:
        self.trt = import_flavour(flavour)
        self.gpu = Gpu(device)
        self.messages = _Messages(self.trt)
        self.label = f"{flavour} {self.trt.__version__} on GPU {device} ({self.gpu.name})"
        try:
            self._runtime = self.trt.Runtime(self.messages.logger)
            self.engine = self._runtime.deserialize_cuda_engine(plan)
        except (RuntimeError, TypeError) as error:
            raise self.messages.error(f"{self.label} cannot start", error) from error
        if self.engine is None:
            raise self.messages.error(f"{self.label} does not load this plan")
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.tensors: dict[str, tuple[str, str, tuple[int, ...]]] = {
            name: (
                self.engine.get_tensor_mode(name).name,
                self.engine.get_tensor_dtype(name).name,
                tuple(self.engine.get_tensor_shape(name)),
            )
            for name in names
        }

    def check(self, expected: Mapping[str, _Expected]) -> None:
        """EngineError names every tensor that is not as the graph's record says."""
        wrong = [f"{name} is not in the record" for name in self.tensors if name not in expected]
        for name, tensor in expected.items():
            if name in self.tensors:
                wrong += _difference(name, self.tensors[name], tensor)
            elif not tensor.optional:
                wrong.append(f"{name} is missing")
        if wrong:
            raise EngineError(
                "the plan does not belong to the graph's export.json: "
                + "; ".join(wrong)
                + "; build it again from this graph"
            )

    def dtype(self, name: str) -> np.dtype[Any]:
        return {**INTEGERS, **FLOATS}[self.tensors[name][1]]

    def limits(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest shape that a profile takes."""
        least, _usual, most = self.engine.get_tensor_profile_shape(name, profile)
        return tuple(least), tuple(most)

    def scratch(self, purpose: str) -> Memory:
        """Memory for what a step computes on its way, as much as any profile needs."""
        engine = self.engine
        newer = hasattr(engine, "device_memory_size_v2")
        size = engine.device_memory_size_v2 if newer else engine.device_memory_size
        return self.gpu.allocate(int(size), purpose, "free the GPU or build for smaller batches")

    def context(self, profile: int, scratch: Memory, stream: int) -> Any:
        """An execution context for a profile that computes in memory which it shares."""
        if hasattr(self.trt, "ExecutionContextAllocationStrategy"):
            strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self.engine.create_execution_context(strategy)
        else:
            context = self.engine.create_execution_context_without_device_memory()
        if context is None:
            raise self.messages.error(f"{self.label} has no execution context")
        if not context.set_optimization_profile_async(profile, stream):
            raise self.messages.error(f"{self.label} refuses optimization profile {profile}")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.address, scratch.size)
        else:
            context.device_memory = scratch.address
        return context


def _difference(
    name: str, found: tuple[str, str, tuple[int, ...]], expected: _Expected
) -> Iterator[str]:
    mode, kind, shape = found
    if mode != expected.mode:
        yield f"{name} is an {mode.lower()}"
    if kind not in expected.types:
        yield f"{name} is {kind}, not {' or '.join(expected.types)}"
    same = len(shape) == len(expected.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, expected.shape, strict=True)
    )
    if not same:
        wanted = [-1 if size is None else size for size in expected.shape]
        yield f"{name} has the shape {list(shape)}, not {wanted}"


class _Lane:
    """A stream, and the buffers that the steps on it share, one step at a time."""

    def __init__(
        self, plan: Plan, *, urgent: bool, inputs: Layout, outputs: Layout, purpose: str
    ) -> None:
        self.plan = plan
        gpu = plan.gpu
        self.stream = gpu.stream(urgent=urgent)
        self.scratch = plan.scratch(f"the workspace of {purpose}")
        inbound, outbound, remedy = layout_size(inputs), layout_size(outputs), "free the GPU"
        self.host_inputs, self.host_outputs = gpu.pinned(inbound), gpu.pinned(outbound)
        self.inputs = gpu.allocate(inbound, f"the inputs of {purpose}", remedy)
        self.outputs = gpu.allocate(outbound, f"the outputs of {purpose}", remedy)

    def context(self, profile: int) -> Any:
        context = self.plan.context(profile, self.scratch, self.stream.handle)
        self.stream.synchronize()
        return context


class _Step:
    """One shape of inputs: where its tensors are, and its CUDA graph once it came back.

    `elsewhere` are the tensors that stay on the device, with their addresses; those of inputs have
    shapes in `shapes`.
    """

    def __init__(
        self,
        lane: _Lane,
        context: Any,
        inputs: Layout,
        outputs: Layout,
        elsewhere: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._lane, self._context = lane, context
        self._runs = 0
        self._graph: Any = None
        self._inputs_size, self._outputs_size = layout_size(inputs), layout_size(outputs)
        for name, (shape, _kind) in inputs.items():
            self._set_shape(name, shape)
        for name, shape in shapes.items():
            self._set_shape(name, shape)
        self.inputs = self._bind(inputs, lane.inputs, lane.host_inputs)
        self.outputs = self._bind(outputs, lane.outputs, lane.host_outputs)
        for name, address in elsewhere.items():
            self._set_address(name, address)

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            plan = self._lane.plan
            raise plan.messages.error(f"{plan.label} refuses the shape {list(shape)} for {name}")

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            plan = self._lane.plan
            raise plan.messages.error(f"{plan.label} refuses the address of {name}")

    def _bind(self, layout: Layout, memory: Memory, host: Any) -> dict[str, npt.NDArray[Any]]:
        views, offset = {}, 0
        for name, (shape, kind) in layout.items():
            views[name] = host.view(offset, shape, kind)
            self._set_address(name, memory.address + offset)
            offset += aligned(math.prod(shape) * kind.itemsize)
        return views

    def enqueue(self) -> None:
        lane = self._lane
        lane.stream.to_device(lane.inputs.address, lane.host_inputs.address, self._inputs_size)
        if not self._context.execute_async_v3(lane.stream.handle):
            raise lane.plan.messages.error(f"{lane.plan.label} failed in a step")
        lane.stream.to_host(lane.host_outputs.address, lane.outputs.address, self._outputs_size)

    def run(self, graphs: _Graphs | None = None) -> None:
        """Run it and wait; the second time as a graph, since TensorRT prepares in the first."""
        self._lane.plan.gpu.use()
        self._runs += 1
        if self._runs == 2 and graphs is not None:
            self._graph = graphs.capture(self._lane, self._context, self)
        if self._graph is None:
            self.enqueue()
        else:
            self._graph.launch()
        self._lane.stream.synchronize()


class _Graphs:
    """Captures steps until one cannot be captured; says so once, and goes on without."""

    def __init__(self) -> None:
        self.refused = False
        # other lanes may allocate, which some captures do not survive
        self._lock = threading.Lock()

    def capture(self, lane: _Lane, context: Any, step: _Step) -> Any:
        with self._lock:
            if self.refused:
                return None
            try:
                capturable = getattr(context, "is_stream_capturable", None)
                if capturable is not None and not capturable(lane.stream.handle):
                    raise EngineError("the execution context says that it cannot be captured")
                return lane.stream.capture(step.enqueue)
            except EngineError as error:
                self.refused = True
                logger.warning("running without CUDA graphs, a little slower: %s", error)
                return None


class TensorRtEngine:
    """A decoder's plan, already verified, with `slots` sequences in its cache."""

    def __init__(
        self,
        plan: bytes,
        record: Mapping[str, Any],
        *,
        flavour: Flavour,
        device: int = 0,
        slots: int | None = None,
        max_len: int | None = None,
    ) -> None:
        exported, cache = record["parameters"], record["cache"]
        self.slots, self.max_len = limits(record, slots, max_len)
        self._vocabulary: int = record["vocabulary"]
        self._plan = Plan(plan, flavour, device)
        self._plan.check(_decoder_tensors(record))
        self._cache_row = (cache["kv_heads"], exported["max_len"], cache["head_dim"])
        self._cache_names = [
            f"{kind}.{layer}" for layer in range(cache["layers"]) for kind in ("key", "value")
        ]
        self._check_in_place()
        self._chunk = self._check_profiles()
        self._slot_bytes = math.prod(self._cache_row) * CACHE_TYPES[_cache_type(record)][1]
        self._allocate()

    # --- what the plan can do --------------------------------------------------------------------

    def _check_in_place(self) -> None:
        aliased = getattr(self._plan.engine, "get_aliased_input_tensor", None)
        if aliased is None:
            return
        wrong = [name for name in self._cache_names if aliased(f"present_{name}") != f"past_{name}"]
        if wrong:
            raise EngineError(
                f"the plan does not update its cache in place: {', '.join(wrong)}; build it from a "
                "graph of deepseek-prepare"
            )

    def _check_profiles(self) -> int:
        """The largest chunk of a prompt; EngineError if the profiles do not fit the settings."""
        plan, count = self._plan, self._plan.engine.num_optimization_profiles
        if count != 2:
            raise EngineError(
                f"the plan has {count} optimization profiles; a decoder needs two, for decode and "
                "for prefill"
            )
        least, most = plan.limits("input_ids", DECODE)
        if least != (1, 1) or most[0] < self.slots:
            raise EngineError(
                f"engine.slots is {self.slots}, the plan decodes {least[0]} to {most[0]} sequences "
                f"of {least[1]} token; lower engine.slots or build for more"
            )
        least, most = plan.limits("input_ids", PREFILL)
        if least != (1, 1):
            raise EngineError(
                f"the plan's prefill takes {list(least)} tokens at least; one sequence of one "
                "token is needed"
            )
        return most[1]

    # --- memory ----------------------------------------------------------------------------------

    def _allocate(self) -> None:
        plan = self._plan
        if self.slots > 1 and self._slot_bytes % ALIGNMENT:
            raise EngineError(
                f"a slot's cache is {self._slot_bytes} bytes in each layer, not a multiple of "
                f"{ALIGNMENT}; export with a --max-len that is a multiple of 64"
            )
        layers = len(self._cache_names) // 2
        size = self.slots * self._slot_bytes
        purpose = f"the KV cache of {self.slots} slots and {layers} layers"
        needed, free = size * len(self._cache_names), plan.gpu.free_bytes()
        if needed > free:
            raise EngineError(
                f"GPU {plan.gpu.device} ({plan.gpu.name}) has no room for {purpose}: {needed} "
                f"bytes are needed, {free} are free; {LESS_CACHE}"
            )
        self._cache = {
            name: plan.gpu.allocate(size, purpose, LESS_CACHE) for name in self._cache_names
        }
        self._logits: Memory | None = None
        if "logits" in plan.tensors:
            logits_size = self.slots * self._vocabulary * FLOATS["FLOAT"].itemsize
            self._logits = plan.gpu.allocate(logits_size, "the logits", LESS_CACHE)
            self._host_logits = plan.gpu.pinned(logits_size)
        prefill, decode = self._inputs(1, self._chunk), self._inputs(self.slots, 1)
        widest = max(prefill, decode, key=layout_size)
        outputs = self._outputs(self.slots)
        self._lane = _Lane(plan, urgent=True, inputs=widest, outputs=outputs, purpose="the decoder")
        self._prefill_context = self._lane.context(PREFILL)
        self._graphs = _Graphs()
        self._decode_steps: dict[int, _Step] = {}
        self._last: int | None = None

    def _inputs(self, batch: int, width: int) -> Layout:
        shapes = {
            "input_ids": (batch, width),
            "position_ids": (batch, width),
            "write_indices": (batch,),
            "valid_lengths": (batch,),
        }
        tensors = self._plan.tensors
        return {
            name: (shape, self._plan.dtype(name))
            for name, shape in shapes.items()
            if name in tensors
        }

    def _outputs(self, batch: int) -> Layout:
        return {
            name: ((batch, self._plan.tensors[name][2][1]), self._plan.dtype(name))
            for name in ("top_values", "top_indices")
        }

    def _step(self, context: Any, first: int, batch: int, width: int) -> _Step:
        elsewhere, shapes = {}, {}
        for name, memory in self._cache.items():
            address = memory.address + first * self._slot_bytes
            elsewhere[f"past_{name}"] = elsewhere[f"present_{name}"] = address
            shapes[f"past_{name}"] = (batch, *self._cache_row)
        if self._logits is not None:
            elsewhere["logits"] = self._logits.address
        inputs, outputs = self._inputs(batch, width), self._outputs(batch)
        return _Step(self._lane, context, inputs, outputs, elsewhere, shapes)

    # --- the interface ---------------------------------------------------------------------------

    def reset(self) -> None:
        """Zeros again, so that nothing odd that a failed step left is ever multiplied."""
        self._plan.gpu.use()
        for memory in self._cache.values():
            self._lane.stream.clear(memory)
        self._lane.stream.synchronize()

    def clear(self, slot: int) -> None:
        self._plan.gpu.use()
        for memory in self._cache.values():
            self._lane.stream.clear(memory, slot * self._slot_bytes, self._slot_bytes)
        self._lane.stream.synchronize()

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self._plan.gpu.use()
        for first in range(0, len(tokens), self._chunk):
            chunk = tokens[first : first + self._chunk]
            step = self._step(self._prefill_context, slot, 1, len(chunk))
            candidates = self._run(step, [chunk], [start + first], None)
        return candidates

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        batch = len(tokens)
        step = self._decode_steps.get(batch)
        if step is None:
            self._plan.gpu.use()
            # a context of its own: a captured graph is tied to one, and to its shape
            step = self._step(self._lane.context(DECODE), 0, batch, 1)
            self._decode_steps[batch] = step
        return self._run(step, [[token] for token in tokens], lengths, self._graphs)

    def _run(
        self,
        step: _Step,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        graphs: _Graphs | None,
    ) -> Candidates:
        ids = np.array(tokens, dtype=np.int64)
        begin = np.array(starts, dtype=np.int64)
        batch, width = ids.shape
        check_bounds(ids, begin, self.max_len, self._vocabulary)
        inputs = step.inputs
        inputs["input_ids"][:] = ids
        inputs["position_ids"][:] = begin[:, None] + np.arange(width)
        inputs["write_indices"][:] = begin
        if "valid_lengths" in inputs:
            inputs["valid_lengths"][:] = begin + width
        self._last = None
        step.run(graphs)
        self._last = batch
        tops = step.outputs["top_indices"]
        return Candidates(step.outputs["top_values"], tops.astype(np.int64, copy=False))

    def logits(self) -> npt.NDArray[np.float32]:
        if self._logits is None:
            raise EngineError("the graph has no output logits")
        if self._last is None:
            raise EngineError("there are no logits before the first step")
        self._plan.gpu.use()
        shape = (self._last, self._vocabulary)
        view = self._host_logits.view(0, shape, FLOATS["FLOAT"])
        stream = self._lane.stream
        stream.to_host(self._host_logits.address, self._logits.address, view.nbytes)
        stream.synchronize()
        return view


def _cache_type(record: Mapping[str, Any]) -> str:
    kind = str(record["cache"].get("type", "float32"))
    if kind not in CACHE_TYPES:
        raise EngineError(
            f"the graph has a cache of {kind}; TensorRT takes {', '.join(CACHE_TYPES)}"
        )
    return kind


def _decoder_tensors(record: Mapping[str, Any]) -> dict[str, _Expected]:
    cache, max_len = record["cache"], record["parameters"]["max_len"]
    integers = tuple(INTEGERS)
    expected = {
        "input_ids": _Expected("INPUT", integers, (None, None)),
        "position_ids": _Expected("INPUT", integers, (None, None)),
        "write_indices": _Expected("INPUT", integers, (None,)),
        "valid_lengths": _Expected("INPUT", integers, (None,), optional=True),
        "top_values": _Expected("OUTPUT", tuple(FLOATS), (None, None)),
        "top_indices": _Expected("OUTPUT", integers, (None, None)),
        "logits": _Expected("OUTPUT", tuple(FLOATS), (None, record["vocabulary"]), optional=True),
    }
    kind = (CACHE_TYPES[_cache_type(record)][0],)
    shape = (None, cache["kv_heads"], max_len, cache["head_dim"])
    for layer in range(cache["layers"]):
        for name in ("key", "value"):
            expected[f"past_{name}.{layer}"] = _Expected("INPUT", kind, shape)
            expected[f"present_{name}.{layer}"] = _Expected("OUTPUT", kind, shape)
    return expected


class _EncoderLane(_Lane):
    """A lane, and the shapes that it met last."""

    def __init__(self, plan: Plan, inputs: Layout, outputs: Layout) -> None:
        super().__init__(
            plan, urgent=False, inputs=inputs, outputs=outputs, purpose="the text encoder"
        )
        self.steps: OrderedDict[tuple[int, int], _Step] = OrderedDict()
        self.elsewhere: dict[str, Memory] = {}


class TensorRtEncoder:
    """A text encoder's plan, already verified, on `streams` streams; threads may share it."""

    def __init__(
        self,
        plan: bytes,
        record: Mapping[str, Any],
        *,
        flavour: Flavour,
        device: int = 0,
        streams: int = 1,
    ) -> None:
        if "embedding" not in record:
            raise EngineError(
                "not a graph of a text encoder, which deepseek-export --encoder writes"
            )
        self.size: int = record["embedding"]["size"]
        self._vocabulary: int = record["vocabulary"]
        self._plan = Plan(plan, flavour, device)
        self._plan.check(_encoder_tensors(record))
        (self._least_rows, self._least_width), (self._rows, self._width) = self._plan.limits(
            "input_ids", 0
        )
        self.max_len: int = min(record["parameters"]["max_len"], self._width)
        self._graphs = _Graphs()
        self._lanes: queue.LifoQueue[_EncoderLane] = queue.LifoQueue()
        for _lane in range(streams):
            self._lanes.put(self._new_lane())

    def _new_lane(self) -> _EncoderLane:
        plan, tokens = self._plan, self._rows * self._width
        inputs, outputs = self._inputs(self._rows, self._width), self._outputs(self._rows)
        lane = _EncoderLane(plan, inputs, outputs)
        remedy = "build for smaller batches or use fewer streams"
        for name, size in (
            # zeros for ever: one kind of text is all that is embedded
            ("token_type_ids", tokens * INTEGERS["INT64"].itemsize),
            ("last_hidden_state", tokens * self.size * FLOATS["FLOAT"].itemsize),
        ):
            if name in plan.tensors:
                lane.elsewhere[name] = plan.gpu.allocate(size, f"the encoder's {name}", remedy)
        return lane

    def _inputs(self, rows: int, width: int) -> Layout:
        return {
            name: ((rows, width), self._plan.dtype(name))
            for name in ("input_ids", "attention_mask")
        }

    def _outputs(self, rows: int) -> Layout:
        return {"embedding": ((rows, self.size), self._plan.dtype("embedding"))}

    @contextmanager
    def _lane(self) -> Iterator[_EncoderLane]:
        """A free lane, waited for."""
        lane = self._lanes.get()
        try:
            yield lane
        finally:
            self._lanes.put(lane)

    def _shape(self, texts: int, longest: int) -> tuple[int, int]:
        rows = max(1 << (texts - 1).bit_length(), self._least_rows)
        width = max(-(-longest // WIDTHS) * WIDTHS, self._least_width)
        return min(rows, self._rows), min(width, self._width)

    def _step(self, lane: _EncoderLane, shape: tuple[int, int]) -> _Step:
        step = lane.steps.get(shape)
        if step is None:
            elsewhere = {name: memory.address for name, memory in lane.elsewhere.items()}
            shapes = {name: shape for name in elsewhere if self._plan.tensors[name][0] == "INPUT"}
            inputs, outputs = self._inputs(*shape), self._outputs(shape[0])
            step = _Step(lane, lane.context(0), inputs, outputs, elsewhere, shapes)
            lane.steps[shape] = step
            if len(lane.steps) > SHAPES:
                lane.steps.popitem(last=False)
        lane.steps.move_to_end(shape)
        return step

    def embed(self, batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        texts = Texts(batch, self.max_len, self._vocabulary)
        found = np.empty((len(batch), self.size), dtype=np.float32)
        for first in range(0, len(texts), self._rows):
            count = min(self._rows, len(texts) - first)
            with self._lane() as lane:
                self._plan.gpu.use()
                step = self._step(lane, self._shape(count, texts.longest(first, count)))
                inputs = step.inputs
                texts.write(first, count, inputs["input_ids"], inputs["attention_mask"])
                step.run(self._graphs)
                found[first : first + count] = step.outputs["embedding"][:count]
        return found


def _encoder_tensors(record: Mapping[str, Any]) -> dict[str, _Expected]:
    size, floats = record["embedding"]["size"], tuple(FLOATS)
    tokens = _Expected("INPUT", tuple(INTEGERS), (None, None))
    return {
        "input_ids": tokens,
        "attention_mask": tokens,
        "token_type_ids": _Expected("INPUT", tuple(INTEGERS), (None, None), optional=True),
        "embedding": _Expected("OUTPUT", floats, (None, size)),
        "last_hidden_state": _Expected("OUTPUT", floats, (None, None, size), optional=True),
    }
