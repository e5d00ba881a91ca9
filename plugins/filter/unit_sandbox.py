# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: unit_sandbox
short_description: What a systemd service of this collection may do
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Returns the sandbox directives of a service. All services of this collection begin with the same ones, which deny
    everything that systemd can deny. A unit names only what it must have beside that.
  - The memory of such a service is neither swapped nor dumped. The core limit alone would not do, since the kernel does not
    apply it where C(kernel.core_pattern) is a program; an empty core filter leaves such a program nothing to read.
options:
  _input:
    description:
      - Directives that differ. A value replaces the one of the sandbox, V(null) leaves the directive out, and a list
        is one line for each element.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Write a unit that may bind to a low port
  ansible.builtin.copy:
    dest: /etc/systemd/system/example.service
    content: |
      [Service]
      ExecStart=/usr/bin/example
      {{ {'CapabilityBoundingSet': 'CAP_NET_BIND_SERVICE'} | onprem.deepseek.unit_sandbox }}
    mode: "0644"
"""

RETURN = r"""
_value:
  description: Lines for the section C(Service) of a unit or of a drop-in.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

Lines = str | list[str] | None

# What a directive must say is said whole, so that a drop-in replaces what the unit of a distribution has.
SANDBOX: dict[str, dict[str, Lines]] = {
    "Memory: keys and what clients wrote reach no disk.": {
        "LimitCORE": "0",
        "CoredumpFilter": "0",
        "MemorySwapMax": "0",
    },
    "Files: the whole system is read-only.": {
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateMounts": "yes",
        "PrivateDevices": "yes",
        "DevicePolicy": "closed",
        "UMask": "0077",
    },
    "Privileges: none, and none to be had.": {
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "NoNewPrivileges": "yes",
        "PrivateUsers": "yes",
        "RestrictSUIDSGID": "yes",
        "SystemCallArchitectures": "native",
        "SystemCallFilter": ["@system-service", "~@privileged @resources @keyring"],
        "SystemCallErrorNumber": "EPERM",
        "MemoryDenyWriteExecute": "yes",
        "LockPersonality": "yes",
        "RestrictNamespaces": "yes",
        "RestrictRealtime": "yes",
        "KeyringMode": "private",
        "RemoveIPC": "yes",
    },
    "Kernel and other processes: out of sight.": {
        "ProtectProc": "invisible",
        "ProcSubset": "pid",
        "ProtectKernelTunables": "yes",
        "ProtectKernelModules": "yes",
        "ProtectKernelLogs": "yes",
        "ProtectControlGroups": "yes",
        "ProtectClock": "yes",
        "ProtectHostname": "yes",
    },
    "Network.": {
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        "SocketBindDeny": "any",
        "IPAddressDeny": "any",
    },
}


def _written(name: str, value: Lines) -> list[str]:
    if value is None:
        return []
    return [f"{name}={line}" for line in ([value] if isinstance(value, str) else value)]


def _checked(name: str, value: Any) -> Lines:
    lines = value if isinstance(value, list) else [value]
    for line in lines:
        if not isinstance(line, str | None) or "\n" in (line or ""):
            raise AnsibleFilterError(
                f"unit_sandbox: {name} must be a string of one line, a list of them, or null, not {value!r}"
            )
    return value if value is None or isinstance(value, str) else [str(line) for line in lines]


def unit_sandbox(differences: Mapping[str, Any]) -> str:
    """Return the directives of the sandbox, with the differences of one unit."""
    known = {name for group in SANDBOX.values() for name in group}
    unknown = sorted(set(differences) - known)
    if unknown:
        raise AnsibleFilterError(
            f"unit_sandbox: {', '.join(unknown)} is no directive of the sandbox; write it into the unit. Known: {', '.join(sorted(known))}"
        )
    lines: list[str] = []
    for comment, directives in SANDBOX.items():
        lines.append(f"# {comment}")
        for name, value in directives.items():
            lines += _written(
                name, _checked(name, differences[name]) if name in differences else value
            )
    return "\n".join(lines)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"unit_sandbox": unit_sandbox}
