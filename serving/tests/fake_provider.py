"""ONNX Runtime with a CUDA provider, over the GPU in host memory of fake_gpu.

A session runs on the processor, over the addresses that were bound, once somebody waits for the
stream that the provider was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
from fake_gpu import FakeGpu

from deepseek_serving.runtime import onnxruntime_cuda

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass
class FakeProvider:
    """Tests set what it can do, and read how it was used."""

    gpu: FakeGpu
    available: list[str] = field(default_factory=lambda: [CUDA, CPU])
    starts: bool = True
    without_kernels: frozenset[str] = frozenset()
    options: dict[str, str] = field(default_factory=dict)
    graphs: list[str] = field(default_factory=list)
    error: str = ""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = SimpleNamespace(
            __version__=ort.__version__,
            InferenceSession=self.session,
            SessionOptions=ort.SessionOptions,
            RunOptions=ort.RunOptions,
            OrtValue=ort.OrtValue,
            get_available_providers=lambda: self.available,
            preload_dlls=lambda: None,
        )
        monkeypatch.setattr(onnxruntime_cuda, "ort", module)

    def session(
        self,
        model: bytes,
        options: ort.SessionOptions,
        providers: Sequence[tuple[str, dict[str, str]]],
    ) -> FakeSession:
        if self.error:
            raise RuntimeError(self.error)
        ((name, self.options),) = providers
        assert name == CUDA
        return FakeSession(self, ort.InferenceSession(model, options, providers=[CPU]))


class FakeSession:
    def __init__(self, provider: FakeProvider, session: ort.InferenceSession) -> None:
        self._provider, self._session = provider, session
        self.get_outputs = session.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self._provider.starts else [CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [
            node
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]
        refused = self._provider.without_kernels
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda mine=mine: mine)
            for name, mine in (
                (CUDA, [node for node in nodes if node.op_type not in refused]),
                (CPU, [node for node in nodes if node.op_type in refused]),
            )
            if mine
        ]

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: FakeBinding, options: ort.RunOptions) -> None:
        self._provider.graphs.append(options.get_run_config_entry("gpu_graph_id"))
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        stream = self._provider.gpu.streams[int(self._provider.options["user_compute_stream"])]
        stream.put(lambda: self._session.run_with_iobinding(binding.real))


class FakeBinding:
    def __init__(self, real: Any) -> None:
        self.real = real

    def bind_input(
        self, name: str, device: str, number: int, kind: Any, shape: Sequence[int], address: int
    ) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_input(name, "cpu", 0, kind, shape, address)

    def bind_output(
        self, name: str, device: str, number: int, kind: Any, shape: Sequence[int], address: int
    ) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0, kind, shape, address)
