# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment of an ansible-playbook that keeps a Python running for each host, as scenarios do.

A run of the roles costs half as much, and what is asked and reported is the same. Tests of what a
connection or a module's process says of its failure do without.
"""

from __future__ import annotations

from pathlib import Path

KEPT_PYTHON = {
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "ANSIBLE_STRATEGY_PLUGINS": str(Path(__file__).resolve().parents[1] / "lab" / "strategy"),
}
