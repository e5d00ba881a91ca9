# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What NVIDIA's datasheets promise of a product, and which part of it a sound GPU reaches.

The figures are peaks. A card with a low power limit runs into that limit long before its tensor cores are at their peak, and so
reaches less of the figure than a module (SXM) does.
"""

from __future__ import annotations

from dataclasses import dataclass

_AMPERE = "https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf"
_A100 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"
_L40S = "https://www.nvidia.com/en-us/data-center/l40s/"

# Modules (SXM). An H100 with 700 W begins at 80 % of the dense bf16 peak and stays at 69 % once it has reached its power limit.
MODULE = 0.6
# Cards have about half of that power for three quarters of the peak.
CARD = 0.35
# A copy reaches 90 % of the peak of HBM.
HBM = 0.8
# GDDR6 keeps the bits of its ECC in the same memory, and pays for them with bandwidth.
GDDR = 0.7


@dataclass(frozen=True)
class Datasheet:
    """Peaks of a product: dense bf16 in TFLOP/s, memory in GB/s of 10^9 bytes; the fractions are those a sound GPU reaches."""

    tflops: float
    gb_per_second: float
    matrix_fraction: float
    copy_fraction: float
    source: str


# By the name that NVML gives. Where a datasheet has bf16 with sparsity only, dense is half of it.
DATASHEETS = {
    "NVIDIA A100-SXM4-40GB": Datasheet(312, 1555, MODULE, HBM, _AMPERE),
    "NVIDIA A100-SXM4-80GB": Datasheet(312, 2039, MODULE, HBM, _A100),
    "NVIDIA A100-PCIE-40GB": Datasheet(312, 1555, CARD, HBM, _AMPERE),
    "NVIDIA A100 80GB PCIe": Datasheet(312, 1935, CARD, HBM, _A100),
    "NVIDIA H100 80GB HBM3": Datasheet(989, 3350, MODULE, HBM, _H100),
    "NVIDIA H100 PCIe": Datasheet(756, 2000, CARD, HBM, _HOPPER),
    "NVIDIA H100 NVL": Datasheet(835, 3900, CARD, HBM, _H100),
    "NVIDIA H200": Datasheet(989, 4800, MODULE, HBM, _H200),
    "NVIDIA H200 NVL": Datasheet(835, 4800, CARD, HBM, _H200),
    "NVIDIA L40S": Datasheet(362, 864, CARD, GDDR, _L40S),
}

# GB/s of 10^9 bytes in one direction of one PCIe lane, less its line code (8b/10b, 128b/130b; none from 6.0 on), by generation.
LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 8.0}
