"""The precisions that a decoder can be prepared in, and what each must keep of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import TensorProto


@dataclass(frozen=True)
class Thresholds:
    """The accuracy gate: how far the prepared graph may be from the FP32 graph."""

    perplexity_increase: float
    top1_agreement: float
    kl_divergence: float


@dataclass(frozen=True)
class Precision:
    """Type of everything that is not quantised, type of quantised weights, gate."""

    name: str
    float_type: int
    weight_type: int | None
    activations: bool
    thresholds: Thresholds


_FP16, _BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16
PRECISIONS: Mapping[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp16", _FP16, None, False, Thresholds(0.005, 0.99, 0.001)),
        Precision("bf16", _BF16, None, False, Thresholds(0.01, 0.97, 0.005)),
        Precision("int8", _FP16, TensorProto.INT8, True, Thresholds(0.03, 0.93, 0.03)),
        Precision("int4", _FP16, TensorProto.INT4, False, Thresholds(0.08, 0.85, 0.10)),
        Precision("fp8", _FP16, TensorProto.FLOAT8E4M3FN, True, Thresholds(0.03, 0.90, 0.03)),
    )
}
