# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's own strategy for the rollout of a scenario, and Mitogen's for all that it does besides.

For scenarios whose rollout is to be as an operator has it: preparing, comparing, asking and nested
playbooks prove the same with either, and cost half as much with Mitogen. A play that needs one of
them in any case names it (``strategy: linear``).
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from ansible import context
from ansible.plugins.loader import strategy_loader

ROLLOUT = "converge.yml"  # which is also the playbook of Molecule's check and idempotence


def is_the_rollout() -> bool:
    """Whether this is Molecule's phase converge on hosts that have not been through it."""
    names = [Path(playbook).name for playbook in context.CLIARGS.get("args", ())]
    if names != [ROLLOUT] or context.CLIARGS["check"]:
        return False
    state = yaml.safe_load(Path(os.environ["MOLECULE_STATE_FILE"]).read_text(encoding="utf-8"))
    return not state["converged"]


# With it come the filters, for either strategy, before tasks are forked.
MITOGEN = strategy_loader.get("mitogen_linear", class_only=True)
StrategyModule = strategy_loader.get("linear", class_only=True) if is_the_rollout() else MITOGEN
