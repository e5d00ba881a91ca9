# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the modules that ask NVML."""

from __future__ import annotations


class ModuleDocFragment:
    """How NVML is reached, and for how long it is waited for."""

    DOCUMENTATION = r"""
options:
  venv:
    description:
      - Virtual environment that has NVIDIA's Python binding of NVML (the package nvidia-ml-py).
      - Without it, the Python that runs this module is taken.
    type: path
  wheel:
    description:
      - Wheel of nvidia-ml-py on the host, or a directory with its C(pynvml.py). It is used where it lies, and nothing is installed.
      - It is preferred to the binding that the Python has.
    type: path
  timeout:
    description:
      - Seconds in which NVML has to answer all questions. NVML can wait in the driver for ever; then the module goes on without it.
      - Without persistence mode, the first question starts each GPU, which takes seconds.
    type: float
    default: 60.0
requirements:
  - NVIDIA's driver with its NVML library (libnvidia-ml.so.1; on Debian the package libnvidia-ml1)
  - nvidia-ml-py >= 12.535, in O(venv), as O(wheel), or importable by the Python that runs this module
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
"""
