"""A decoder's TensorRT plan as an engine.

What it needs is allocated once. The KV cache is bound in place: a layer's past and present are the
same memory. Logits stay on the device until they are asked for. Its stream has the highest
priority, so that the next step does not wait for texts that are being embedded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.artifacts.engines import PlanFlavour
from deepseek_serving.errors import EngineError
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.cuda import ALIGNMENT, Layout, Memory, layout_size
from deepseek_serving.runtime.limits import check_bounds, limits
from deepseek_serving.runtime.tensorrt_plan import FLOATS, INTEGERS, ExpectedTensor, Plan
from deepseek_serving.runtime.tensorrt_steps import Graphs, Lane, Step

DECODE, PREFILL = 0, 1
# the cache is only counted in bytes here, and its BF16 has no type in NumPy
CACHE_TYPES: Mapping[str, tuple[str, int]] = {
    "float32": ("FLOAT", 4),
    "float16": ("HALF", 2),
    "bfloat16": ("BF16", 2),
}
LESS_CACHE = "lower engine.slots, build with a smaller max_len, or free the GPU"


class TensorRtEngine:
    """A decoder's plan, already verified, with `slots` sequences in its cache."""

    def __init__(
        self,
        plan: bytes,
        record: Mapping[str, Any],
        *,
        flavour: PlanFlavour,
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
        self._lane = Lane(plan, urgent=True, inputs=widest, outputs=outputs, purpose="the decoder")
        self._prefill_context = self._lane.context(PREFILL)
        self._graphs = Graphs()
        self._decode_steps: dict[int, Step] = {}
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

    def _step(self, context: Any, first: int, batch: int, width: int) -> Step:
        elsewhere, shapes = {}, {}
        for name, memory in self._cache.items():
            address = memory.address + first * self._slot_bytes
            elsewhere[f"past_{name}"] = elsewhere[f"present_{name}"] = address
            shapes[f"past_{name}"] = (batch, *self._cache_row)
        if self._logits is not None:
            elsewhere["logits"] = self._logits.address
        inputs, outputs = self._inputs(batch, width), self._outputs(batch)
        return Step(self._lane, context, inputs, outputs, elsewhere, shapes)

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
        step: Step,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        graphs: Graphs | None,
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


def _decoder_tensors(record: Mapping[str, Any]) -> dict[str, ExpectedTensor]:
    cache, max_len = record["cache"], record["parameters"]["max_len"]
    integers = tuple(INTEGERS)
    expected = {
        "input_ids": ExpectedTensor("INPUT", integers, (None, None)),
        "position_ids": ExpectedTensor("INPUT", integers, (None, None)),
        "write_indices": ExpectedTensor("INPUT", integers, (None,)),
        "valid_lengths": ExpectedTensor("INPUT", integers, (None,), optional=True),
        "top_values": ExpectedTensor("OUTPUT", tuple(FLOATS), (None, None)),
        "top_indices": ExpectedTensor("OUTPUT", integers, (None, None)),
        "logits": ExpectedTensor(
            "OUTPUT", tuple(FLOATS), (None, record["vocabulary"]), optional=True
        ),
    }
    kind = (CACHE_TYPES[_cache_type(record)][0],)
    shape = (None, cache["kv_heads"], max_len, cache["head_dim"])
    for layer in range(cache["layers"]):
        for name in ("key", "value"):
            expected[f"past_{name}.{layer}"] = ExpectedTensor("INPUT", kind, shape)
            expected[f"present_{name}.{layer}"] = ExpectedTensor("OUTPUT", kind, shape)
    return expected
