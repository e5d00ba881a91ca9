# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs a model, and which precisions it takes."""

from __future__ import annotations

from ..artifacts import engines

# ONNX Runtime on the graph itself, on the processor or on a GPU, or an engine that is compiled first.
UNCOMPILED = "none"
ON_CUDA = "onnxruntime_cuda"
FLAVOURS = (UNCOMPILED, ON_CUDA, *sorted(engines.FLAVOURS))
GPU_FLAVOURS = (ON_CUDA, *engines.PLAN_FLAVOURS)
# What ONNX Runtime's CUDA provider has kernels for.
CUDA_PRECISIONS = ("fp16", "bf16")
