# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules model_engine and model_engine_info ask deepseek-engine, and what it answers.

The serving environment decides and builds: its packages are part of an engine's key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..common.commands import Run

PREFIX = "deepseek-engine: "
# Members of TensorRT's BuilderFlag behind options that are easier to read.
FLAGS = {"weight_streaming": "WEIGHT_STREAMING", "strip": "STRIP_PLAN", "refit": "REFIT"}


class EngineError(Exception):
    """The engine cannot be built or read; the message says why and what to do."""


def progress_path(dest: str) -> str:
    """Where a build says how far it is; it is there only while an engine is built."""
    return os.path.join(os.path.dirname(dest), f".{os.path.basename(dest)}.progress")


def build_command(params: Mapping[str, Any], check: bool, profiles: str | None) -> list[str]:
    """The command that decides and builds; *profiles* is a file."""
    dest = params["dest"]
    command = [_program(params), "build", params["onnx"], dest, "--flavour", params["flavour"]]
    for option in (
        "compute_capability",
        "slots",
        "prefill_chunk",
        "optimization_level",
        "timing_cache",
        "regenerate",
    ):
        if params[option] is not None:
            command += [f"--{option.replace('_', '-')}", str(params[option])]
    if params["workspace_mib"] is not None:
        command += ["--workspace-bytes", str(params["workspace_mib"] * 1024 * 1024)]
    if profiles is not None:
        command += ["--profiles", profiles]
    for flag in builder_flags(params):
        command += ["--flag", flag]
    command += [f"--{name}" for name in _switches(params, check)]
    return [*command, "--progress", progress_path(dest)]


def builder_flags(params: Mapping[str, Any]) -> list[str]:
    """All flags by TensorRT's names, sorted."""
    asked = {name for option, name in FLAGS.items() if params[option]}
    return sorted(asked | set(params["flags"]))


def _switches(params: Mapping[str, Any], check: bool) -> list[str]:
    switches = [name for name in ("hardware_compatible", "force_hash") if params[name]]
    return [name.replace("_", "-") for name in switches] + (["check"] if check else [])


def _program(params: Mapping[str, Any]) -> str:
    return os.path.join(params["venv"], "bin", "deepseek-engine")


def info_command(params: Mapping[str, Any]) -> list[str]:
    command = [_program(params), "info"]
    return [*command, params["dest"]] if params["dest"] is not None else command


def ask(command: Sequence[str], run: Run) -> dict[str, Any]:
    """The program's answer; raises EngineError with its own message."""
    if not os.access(command[0], os.X_OK):
        raise EngineError(
            f"{command[0]} is not on this host. Run role onprem.deepseek.serving_environment on it first."
        )
    rc, stdout, stderr = run(command)
    if rc != 0:
        raise EngineError(_complaint(stderr) or f"{command[0]} ended with status {rc}: {stdout}")
    try:
        answer = json.loads(stdout)
    except ValueError as error:
        raise EngineError(f"{command[0]} gave no JSON ({error}): {stdout[-500:]!r}") from error
    if not isinstance(answer, dict):
        raise EngineError(f"{command[0]} gave no JSON object: {stdout[-500:]!r}")
    return answer


def _complaint(stderr: str) -> str:
    """The last line: those before it say how far the build was."""
    lines = stderr.strip().splitlines()
    if not lines:
        return ""
    if not lines[-1].startswith(PREFIX):
        return stderr.strip()[-2000:]
    return lines[-1][len(PREFIX) :]


def result_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a playbook gets to know about a build."""
    return {
        "changed": answer["changed"],
        "rebuild_reason": answer["rebuild_reason"],
        "key": answer["key"],
        "driver": answer["driver"],
        "driver_changed": answer["driver_changed"],
        "build": answer["build"],
        "engine": answer["after"],
        "diff": {
            "before": _text(answer["before"]),
            "after": _text(answer["after"] if answer["changed"] else answer["before"]),
        },
    }


def _text(fields: Mapping[str, Any]) -> str:
    """The key's fields as key.json has them: a diff of it names those that change."""
    return json.dumps(fields, indent=2, sort_keys=True) + "\n" if fields else ""
