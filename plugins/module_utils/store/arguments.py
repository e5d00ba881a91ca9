# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of the store share: arguments, the programs they run, and how they reach token and sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..artifacts.files import read_small
from ..common.commands import Completed, Run, run_command
from ..pkcs11.arguments import is_sealed, stored_pin
from ..pkcs11.session import sign_bytes
from .eviction import Evictor, last_served
from .model import Credentials, Fetch, ReplicaError
from .sources import https_fetcher
from .writer import PublishError


def store_arguments() -> dict[str, Any]:
    """Arguments of every module, as in the documentation fragment."""
    return {
        "store": {"type": "path", "required": True},
        "model": {"type": "str", "required": True},
        "public_key": {"type": "path", "required": True},
        "verify": {"type": "str", "choices": ["full", "quick"], "default": "full"},
    }


def signing_arguments() -> dict[str, Any]:
    """Arguments of those that sign."""
    return {
        "venv": {"type": "path", "required": True},
        "module_path": {"type": "path", "required": True},
        "token": {"type": "str", "required": True, "no_log": False},
        "key": {"type": "str", "default": "release-signing", "no_log": False},
        "pin_file": {"type": "path", "required": True},
    }


def source_arguments() -> dict[str, Any]:
    """Arguments of those that pull."""
    return {
        "sources": {"type": "list", "elements": "str", "default": []},
        "ca": {"type": "path", "required": True},
        "certificate": {"type": "path", "required": True},
        "private_key": {"type": "path", "required": True},
        "timeout": {"type": "float", "default": 5.0},
    }


def cache_arguments() -> dict[str, Any]:
    """Arguments of those that may make room for what they pull."""
    return {
        "evict": {"type": "bool", "default": False},
        "keep": {"type": "list", "elements": "str", "default": []},
        "served": {"type": "path"},
    }


def evictor(module: Any) -> Evictor | None:
    """What makes room, if the module was allowed to."""
    params = module.params
    if not params["evict"]:
        return None
    keep = [*params["keep"], *(last_served(params["served"]) if params["served"] else [])]
    return Evictor(params["store"], read_small(params["public_key"]), keep)


def run_program(
    module: Any, program: str, arguments: Sequence[str], purpose: str, data: str | None = None
) -> str:
    """Run a program of the serving environment, with ``data`` on its standard input."""
    command = [f"{module.params['venv']}/bin/{program}", *arguments]
    rc, stdout, stderr = module.run_command(command, data=data, binary_data=True)
    if rc != 0:
        raise PublishError(f"{purpose} failed with status {rc}: {str(stderr or stdout).strip()}")
    return str(stdout)


def directory_signer(module: Any) -> Callable[[str], None]:
    """Sign a directory with the key in the token; the PIN stays in its file, or goes through a pipe where that is sealed."""
    params = module.params
    options = ["--token", params["token"], "--key", params["key"]]
    options += ["--module", params["module_path"], "--pin-file"]

    def sign_directory(directory: str) -> None:
        path, pin = params["pin_file"], None
        if is_sealed(path):
            path, pin = "/dev/stdin", stored_pin(module, path)
        purpose = f"Signing {directory}"
        run_program(module, "deepseek-sign", [directory, *options, path], purpose, pin)

    return sign_directory


def data_signer(module: Any) -> Callable[[bytes], bytes]:
    """Sign bytes with the key in the token."""
    params = module.params

    def sign_data(data: bytes) -> bytes:
        pin = stored_pin(module, params["pin_file"])
        return sign_bytes(params["module_path"], params["token"], params["key"], pin, data)

    return sign_data


def credentials_of(module: Any) -> Credentials:
    params = module.params
    return Credentials(params["ca"], params["certificate"], params["private_key"])


def fetcher(module: Any) -> Fetch:
    """Fetch small files. The credentials are looked for when a source is asked: a host with a whole copy needs none."""

    def fetch(url: str, limit: int) -> bytes:
        return https_fetcher(credentials_of(module), module.params["timeout"])(url, limit)

    return fetch


def runner(module: Any) -> Run:
    """Run a command whose program must be installed."""

    def run(command: Sequence[str], data: str = "", /) -> Completed:
        program = module.get_bin_path(command[0])
        if program is None:
            raise ReplicaError(
                f"{command[0]} is not installed on this host: install the package aria2."
            )
        # not the module's, which is not made for several threads
        return run_command([program, *command[1:]], data)

    return run
