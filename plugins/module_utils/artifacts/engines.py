# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What engines are compiled with, and the file of each that its runtime loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

# Those that make a plan, and all.
PlanFlavour = Literal["tensorrt", "tensorrt_rtx"]
Flavour = Literal[PlanFlavour, "onnxruntime"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
PLAN_FLAVOURS: tuple[PlanFlavour, ...] = get_args(PlanFlavour)

PLAN_FILE = "engine.plan"
OPTIMIZED_FILE = "engine.onnx"
# What the runtime of each flavour loads.
FILES: Mapping[str, str] = {
    **dict.fromkeys(PLAN_FLAVOURS, PLAN_FILE),
    "onnxruntime": OPTIMIZED_FILE,
}
