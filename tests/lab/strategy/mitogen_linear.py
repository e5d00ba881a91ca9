# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Ansible finds Mitogen's strategy, whatever the version of Python it is installed for.

Mitogen keeps a Python running on each host, instead of sending and compiling a module for every
task. Scenarios take half as long with it. Some, and a rollout inside that of the site, run as they
do for an operator.
"""

from __future__ import annotations

from ansible_mitogen import affinity
from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]

# Mitogen gives its processes a processor each, which is for a controller with many. What they start
# inherits it, here all test hosts with all that runs on them.
affinity.policy = affinity.Policy()
