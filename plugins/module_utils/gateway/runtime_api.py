# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands for a running HAProxy, through its runtime socket (HAProxy Management Guide, section 9.3)."""

from __future__ import annotations

import argparse
import socket
import sys

TIMEOUT_SECONDS = 10


class HaproxyError(Exception):
    """HAProxy does not answer, or refuses a command."""


def ask(path: str, command: str, payload: str = "") -> str:
    """The answer to one command; a payload, such as a certificate, is sent with it and ends at an empty line."""
    if payload:
        lines = [line for line in payload.splitlines() if line.strip()]
        command = "\n".join([f"{command} <<", *lines, ""])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
    except OSError as error:
        raise HaproxyError(
            f"{path} does not answer {command.split(' <<')[0]!r}: {error}"
        ) from error
    return b"".join(parts).decode(errors="replace").strip()


def process_id(path: str) -> int:
    """The process that answers at this socket."""
    for line in ask(path, "show info").splitlines():
        name, _colon, value = line.partition(": ")
        if name == "Pid":
            return int(value)
    raise HaproxyError(f"{path} does not say which process it belongs to")


def main() -> int:
    """Send one command: `deepseek-gateway-runtime SOCKET COMMAND`."""
    parser = argparse.ArgumentParser(description="Send one command to a running HAProxy.")
    parser.add_argument("socket", help="HAProxy's runtime socket")
    parser.add_argument("command", help="as HAProxy's management guide, section 9.3, has it")
    given = parser.parse_args()
    try:
        sys.stdout.write(ask(given.socket, given.command) + "\n")
    except HaproxyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
