"""A text encoder's TensorRT plan, on streams of the lowest priority."""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.artifacts.engines import PlanFlavour
from deepseek_serving.errors import EngineError
from deepseek_serving.runtime.cuda import Layout, Memory
from deepseek_serving.runtime.tensorrt_plan import FLOATS, INTEGERS, ExpectedTensor, Plan
from deepseek_serving.runtime.tensorrt_steps import Graphs, Lane, Step
from deepseek_serving.runtime.texts import Texts

# shapes of an encoder that are kept with their context and graph; a text is padded up to a multiple
# of WIDTHS tokens, and the batch to a power of two, so that shapes come back
SHAPES, WIDTHS = 32, 32


class EncoderLane(Lane):
    """A lane, and the shapes that it met last."""

    def __init__(self, plan: Plan, inputs: Layout, outputs: Layout) -> None:
        super().__init__(
            plan, urgent=False, inputs=inputs, outputs=outputs, purpose="the text encoder"
        )
        self.steps: OrderedDict[tuple[int, int], Step] = OrderedDict()
        self.elsewhere: dict[str, Memory] = {}


class TensorRtEncoder:
    """A text encoder's plan, already verified, on `streams` streams; threads may share it."""

    def __init__(
        self,
        plan: bytes,
        record: Mapping[str, Any],
        *,
        flavour: PlanFlavour,
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
        self._graphs = Graphs()
        self._lanes: queue.LifoQueue[EncoderLane] = queue.LifoQueue()
        for _lane in range(streams):
            self._lanes.put(self._new_lane())

    def _new_lane(self) -> EncoderLane:
        plan, tokens = self._plan, self._rows * self._width
        inputs, outputs = self._inputs(self._rows, self._width), self._outputs(self._rows)
        lane = EncoderLane(plan, inputs, outputs)
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
    def _lane(self) -> Iterator[EncoderLane]:
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

    def _step(self, lane: EncoderLane, shape: tuple[int, int]) -> Step:
        step = lane.steps.get(shape)
        if step is None:
            elsewhere = {name: memory.address for name, memory in lane.elsewhere.items()}
            shapes = {name: shape for name in elsewhere if self._plan.tensors[name][0] == "INPUT"}
            inputs, outputs = self._inputs(*shape), self._outputs(shape[0])
            step = Step(lane, lane.context(0), inputs, outputs, elsewhere, shapes)
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


def _encoder_tensors(record: Mapping[str, Any]) -> dict[str, ExpectedTensor]:
    size, floats = record["embedding"]["size"], tuple(FLOATS)
    tokens = ExpectedTensor("INPUT", tuple(INTEGERS), (None, None))
    return {
        "input_ids": tokens,
        "attention_mask": tokens,
        "token_type_ids": ExpectedTensor("INPUT", tuple(INTEGERS), (None, None), optional=True),
        "embedding": ExpectedTensor("OUTPUT", floats, (None, size)),
        "last_hidden_state": ExpectedTensor("OUTPUT", floats, (None, None, size), optional=True),
    }
