# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shutil
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import (
    Completed,
    module_runner,
    run_command,
)


class Module:
    """What a runner needs of AnsibleModule."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], dict[str, Any]]] = []

    def get_bin_path(self, name: str) -> str | None:
        return shutil.which(name)

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        self.asked.append((command, options))
        return 3, "out", "err"


def test_a_module_runs_a_command_in_english_with_its_input() -> None:
    module = Module()
    assert module_runner(module)(["cat", "-"], "text") == Completed(3, "out", "err")
    ((command, options),) = module.asked
    assert command == [shutil.which("cat"), "-"]
    assert (options["data"], options["environ_update"]) == ("text", {"LC_ALL": "C.UTF-8"})


def test_a_program_that_the_host_lacks_ends_as_in_a_shell() -> None:
    module = Module()
    outcome = module_runner(module)(["deepseek-nothing"])
    assert outcome == (127, "", "deepseek-nothing is not installed")
    assert module.asked == []


def test_a_command_gets_its_input_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.org")
    outcome = run_command(["sh", "-c", 'cat; echo "${https_proxy:-none}" >&2; exit 4'], "text")
    assert outcome == Completed(4, "text", "none\n")
