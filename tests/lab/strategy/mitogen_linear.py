# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Ansible finds Mitogen's strategy, whatever the version of Python it is installed for.

Mitogen keeps a Python running on each host, instead of sending and compiling a module for every
task. Scenarios take half as long with it. Some, and a rollout inside that of the site, run as they
do for an operator.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

from ansible.plugins.loader import filter_loader, test_loader
from ansible_mitogen import affinity
from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]

FILTERS = Path(__file__).resolve().parents[3] / "plugins" / "filter"

# Mitogen gives its processes a processor each, which is for a controller with many. What they start
# inherits it, here all test hosts with all that runs on them.
affinity.policy = affinity.Policy()


def _filters() -> Iterator[str]:
    yield "ansible.builtin.default"  # with it come all others of Ansible
    for path in sorted(FILTERS.glob("*.py")):
        yield f"onprem.deepseek.{path.stem}"


def _load_before_forking() -> None:
    """Load every filter once, before the processes that run tasks are forked.

    Each of those would compile and import the filters of its own task, and end: that was a fifth of
    the controller's processor time. What is there now is never looked at by the garbage collector
    again, which would copy its memory in each of them; they end before they have much to collect.
    """
    for name in _filters():
        filter_loader.get(name)
    test_loader.get("ansible.builtin.defined")
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


_load_before_forking()
