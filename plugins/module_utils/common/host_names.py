# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether an inventory's name for a host can be used as one everywhere: in certificates, files, units and allow-lists.

The name is the common name (at most 64 characters, RFC 5280, appendix A, ub-common-name) and a DNS name (RFC 1123, section 2.1) of the host's
certificate, by which the hosts know each other, and a part of file names and of the gateway's configuration.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator

COMMON_NAME = 64

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REMEDY = (
    "Name it with letters from a to z, digits and hyphens, in parts of at most 63 characters between dots, "
    f"{COMMON_NAME} in all, and put its address into deepseek_zone_addresses and ansible_host"
)


def problems(names: Iterable[str], groups: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Find names that cannot be a host's; gives the name, what is wrong, and the remedy."""
    for name in names:
        what = _problem(name)
        if what:
            yield name, what, _REMEDY
        elif name in groups:
            yield (
                name,
                "a group has the same name, and Ansible cannot tell them apart",
                "Rename one",
            )


def _problem(name: str) -> str:
    if name.lower().rstrip(".") in ("localhost", "localhost.localdomain"):
        return "it is Ansible's name for the controller, whose own files its tasks would change"
    if _is_address(name):
        return "it is an IP address, which is no host name in a certificate"
    if len(name) > COMMON_NAME:
        return f"it has {len(name)} characters, and a certificate's common name has {COMMON_NAME} at most"
    odd = sorted(set(re.findall(r"[^a-z0-9.-]", name)))
    if odd and "".join(odd).isascii() and "".join(odd).isalpha():
        return "it has capitals, and names are compared letter by letter"
    if odd:
        return f"it has {', '.join(map(repr, odd))}, which no host name in a certificate has"
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        return "it is no host name"
    return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
