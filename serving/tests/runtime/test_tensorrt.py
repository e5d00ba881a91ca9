"""Prepared graphs compiled by TensorRT-RTX, for real and ahead of time: no GPU is needed for that.

What these tests cannot show is what the engines compute; that takes a GPU of the kind compiled for.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx_bindings as trt

BATCH, CHUNK = 4, 64
# four layers of seven matrices, which read four activations
LAYERS, MATRICES, ACTIVATIONS = 4, 4 * 7, 4 * 4


class Compiler:
    """A prepared graph as TensorRT-RTX understands it."""

    def __init__(self, folder: Path) -> None:
        # it prints errors on the standard output
        log = trt.Logger(trt.Logger.ERROR)
        self.builder = trt.Builder(log)
        self.network = self.builder.create_network(0)
        self.parser = trt.OnnxParser(self.network, log)
        parsed = self.parser.parse_from_file(str(folder / "decoder.onnx"))
        assert parsed, [str(self.parser.get_error(i)) for i in range(self.parser.num_errors)]

    def layers(self) -> list[Any]:
        return [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def inputs(self) -> list[Any]:
        return [self.network.get_input(index) for index in range(self.network.num_inputs)]

    def compile(self, capability: str) -> int:
        """Size of an engine for GPUs of that kind; 0 if there is none."""
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        profile = self.builder.create_optimization_profile()
        for tensor in self.inputs():
            sizes = ((1, 1), (BATCH, 1), (BATCH, CHUNK))
            profile.set_shape(tensor.name, *(_shape(tensor, *size) for size in sizes))
        config.add_optimization_profile(profile)
        plan = self.builder.build_serialized_network(self.network, config)
        return 0 if plan is None else int(plan.nbytes)


def printed(capfd: pytest.CaptureFixture[str]) -> str:
    """What TensorRT printed since the last time; it writes through C's buffers."""
    ctypes.CDLL(None).fflush(None)
    return capfd.readouterr().out


def _shape(tensor: Any, batch: int, width: int) -> list[int]:
    free = [batch, width] if tensor.name in ("input_ids", "position_ids") else [batch]
    return free + list(tensor.shape)[len(free) :]


@pytest.mark.parametrize(
    ("precision", "capability", "cache"),
    [
        ("fp16", "SM80", "HALF"),
        ("bf16", "SM80", "BF16"),
        ("int8", "SM80", "HALF"),
        ("int4", "SM80", "HALF"),
        ("fp16", "SM89", "HALF"),
        ("bf16", "SM89", "BF16"),
        ("int8", "SM89", "HALF"),
        ("int4", "SM89", "HALF"),
        ("fp8", "SM89", "HALF"),
    ],
)
def test_every_precision_compiles(
    prepared: dict[str, Path],
    capfd: pytest.CaptureFixture[str],
    precision: str,
    capability: str,
    cache: str,
) -> None:
    compiler = Compiler(prepared[precision])
    types = {tensor.name: tensor.dtype.name for tensor in compiler.inputs()}
    assert types[f"past_key.{LAYERS - 1}"] == cache
    kinds = Counter(layer.type.name for layer in compiler.layers())
    weights = MATRICES if precision in ("int8", "int4", "fp8") else 0
    activations = ACTIVATIONS if precision in ("int8", "fp8") else 0
    assert kinds["QUANTIZE"] == activations
    assert kinds["DEQUANTIZE"] == weights + activations
    assert kinds["KV_CACHE_UPDATE"] == 2 * LAYERS
    # where there is no GPU it has said so by now
    printed(capfd)
    assert compiler.compile(capability) > 10**6
    assert "[E]" not in printed(capfd)


def test_fp8_is_refused_for_a_gpu_without_it(
    prepared: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    compiler = Compiler(prepared["fp8"])
    printed(capfd)
    assert compiler.compile("SM80") == 0
    message = printed(capfd)
    assert "[E]" in message
    assert "Cannot compile for target(s) sm80" in message
    assert "fp8_e4m3" in message


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_attention_reads_the_mask(prepared: dict[str, Path], precision: str) -> None:
    """The number of valid keys that the exported graph gives it instead would be dropped."""
    compiler = Compiler(prepared[precision])
    read = [
        [layer.get_input(index).name for index in range(layer.num_inputs)]
        for layer in compiler.layers()
        if layer.type.name == "ATTENTION_INPUT"
    ]
    assert len(read) == LAYERS
    assert all(names[-1] == "mask" for names in read)
