# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the serving package read a checkpoint as the service does: tokenizer, chat template and settings.

Its programs need the serving environment; what needs none is in module checkpoint.
"""

from __future__ import annotations

import os
from typing import Any

from .files import CheckpointError

PROGRAM = "deepseek-check"


def can_check(venv: str | None) -> bool:
    """Whether the serving environment is there, and of a version that has the program."""
    return bool(venv) and os.path.exists(f"{venv}/bin/{PROGRAM}")


def check(module: Any, venv: str, checkpoint: str) -> list[str]:
    """Return warnings. Raises CheckpointError with everything that keeps the service from reading *checkpoint*."""
    rc, stdout, stderr = module.run_command([f"{venv}/bin/{PROGRAM}", checkpoint])
    if rc != 0:
        said = str(stderr or stdout).strip().removeprefix(f"{PROGRAM}: ")
        raise CheckpointError(
            f"the service could not load it: {said or f'{PROGRAM} ended with status {rc}'}",
            "correct the files that are named",
        )
    lines = str(stdout).split("\n")
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]
