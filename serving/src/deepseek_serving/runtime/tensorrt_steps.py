"""Steps of a plan: bound to memory once, run many times, and captured as CUDA graphs.

The small inputs of a step are one block of pinned memory and one copy to the device, its small
outputs one copy back. A shape that comes back is captured as a CUDA graph, copies included, and
from then on started as a whole.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from deepseek_serving.errors import EngineError
from deepseek_serving.runtime.cuda import Layout, Memory, aligned, layout_size
from deepseek_serving.runtime.tensorrt_plan import Plan

logger = logging.getLogger(__name__)


class Lane:
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


class Step:
    """One shape of inputs: where its tensors are, and its CUDA graph once it came back.

    `elsewhere` are the tensors that stay on the device, with their addresses; those of inputs have
    shapes in `shapes`.
    """

    def __init__(
        self,
        lane: Lane,
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

    def run(self, graphs: Graphs | None = None) -> None:
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


class Graphs:
    """Captures steps until one cannot be captured; says so once, and goes on without."""

    def __init__(self) -> None:
        self.refused = False
        # other lanes may allocate, which some captures do not survive
        self._lock = threading.Lock()

    def capture(self, lane: Lane, context: Any, step: Step) -> Any:
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
