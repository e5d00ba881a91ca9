# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of the service: it works for every user, and only root can change it."""

from __future__ import annotations

from typing import Any

import pytest
from lab_hosts import hosts

testinfra_hosts = hosts("inference-1", "inference-2")

ENVIRONMENT = "/opt/deepseek/serving"
# A user without rights.
AS_NOBODY = f"runuser --user=nobody -- {ENVIRONMENT}/bin"
MODULES = "deepseek_serving, model_signing, numpy, onnx, onnxruntime, tokenizers, uvicorn"
COMMANDS = ("check", "export", "sign", "verify", "serve")


def test_what_the_service_is_made_of_can_be_imported(host: Any) -> None:
    host.run_expect([0], f"{AS_NOBODY}/python -I -c %s", f"import {MODULES}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(host: Any, command: str) -> None:
    host.run_expect([0], f"{AS_NOBODY}/deepseek-{command} --help")


def test_only_root_can_change_it(host: Any) -> None:
    others = r"\( -not -user root -or -not -type l -perm /022 \)"
    assert host.check_output(f"find {ENVIRONMENT}/ {others} -print") == ""
