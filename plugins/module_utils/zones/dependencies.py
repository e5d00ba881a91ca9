# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a Debian host is set up to ask for names and packages: its name servers, package indexes and proxies."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

# argv -> (rc, standard output); rc is not 0 where the program is missing or took too long
Ask = Callable[[Sequence[str]], "tuple[int, str]"]

# The second has the real ones where the first names only systemd's own stub.
RESOLVER_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_PORTS = {"http": 80, "https": 443, "ftp": 21}
_PROXY = re.compile(r'^Acquire::(https?)::[Pp]roxy(?:::([^ ]+))? "(.*)";$', re.MULTILINE)


def dependencies(
    ask: Ask, resolver_files: Sequence[str] = RESOLVER_FILES
) -> tuple[list[dict[str, Any]], list[str]]:
    """Give each connection that the host is set up to make (what, address, protocol, port), and names without an address."""
    found = list(_resolvers(resolver_files))
    unresolved = []
    for what, host, port in _packages(ask):
        addresses = _addresses(ask, host)
        if not addresses:
            unresolved.append(f"{what}: {host}")
        found += [
            {"what": what, "address": address, "protocol": "tcp", "port": port}
            for address in addresses
        ]
    unique = {tuple(item.values()): item for item in found}
    return list(unique.values()), sorted(set(unresolved))


def _resolvers(files: Iterable[str]) -> Iterator[dict[str, Any]]:
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb") as handle:
            for line in handle.read(65536).decode("utf-8", "replace").split("\n"):
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    address = words[1].partition("%")[0]
                    if _is_remote(address):
                        what = f"a name server of {path}"
                        yield {"what": what, "address": address, "protocol": "udp", "port": 53}


def _is_remote(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _packages(ask: Ask) -> Iterator[tuple[str, str, int]]:
    rc, out = ask(["apt-config", "dump", "--format", '%F "%v";%n'])
    proxies = _PROXY.findall(out) if rc == 0 else []
    rc, out = ask(["apt-get", "indextargets", "--format", "$(URI)"])
    for url in sorted(set(out.split())) if rc == 0 else ():
        with contextlib.suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme not in _PORTS or not parts.hostname:
                continue
            proxy = _proxy(proxies, parts.scheme, parts.hostname)
            if proxy is None:
                port = parts.port or _PORTS[parts.scheme]
                yield "a package index of apt", parts.hostname, port
            elif proxy.hostname:
                yield "the proxy of apt", proxy.hostname, proxy.port or _PORTS[proxy.scheme]


def _proxy(proxies: Sequence[tuple[str, str, str]], scheme: str, host: str) -> Any:
    """Give the proxy that apt would use, as apt-transport-http(1) has it: one for the host first, DIRECT for none."""
    for kind in (scheme, "http"):
        for wanted in (host, ""):
            for name, only, value in proxies:
                if name == kind and only == wanted and value:
                    return None if value == "DIRECT" else urlsplit(value)
    return None


def _addresses(ask: Ask, host: str) -> list[str]:
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    rc, out = ask(["getent", "ahosts", host])
    found = {line.split()[0] for line in out.split("\n") if line.split()} if rc == 0 else set()
    return sorted(found)
