# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a storage host, and which copies are missing on all of them together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .placement import holders


def host_findings(
    host: str,
    said: Mapping[str, Mapping[str, Any]],
    directory: str,
    full_percent: int,
    certificate_hours: int,
) -> dict[str, Any]:
    """Judge one host by the results of what it was asked.

    *said* has the results of the ``answer`` of its web server, of its ``store`` (module model_release_info), of ``df`` (``space``), of
    ``openssl x509 -checkend`` (``certificate``), and of ``systemctl is-failed`` (``care``, skipped where something else keeps the store).
    """
    releases = said["store"].get("releases") or []
    problems = [*_looks(said, directory, full_percent, certificate_hours)]
    problems += [text for release in releases for text in release["problems"]]
    return {
        "releases": {
            f"{release['model']}/{release['version']}": release["sha256"]
            for release in releases
            if not release["problems"]
        },
        "problems": [f"{host}: {text}" for text in problems],
    }


def _looks(
    said: Mapping[str, Mapping[str, Any]],
    directory: str,
    full_percent: int,
    certificate_hours: int,
) -> Iterator[str]:
    if said["answer"].get("status") != 200:
        yield f"nginx does not answer ({said['answer'].get('msg', '')}). Look at 'journalctl -u nginx'."
    if "releases" not in said["store"]:
        yield f"the store cannot be read: {said['store'].get('msg', '')}"
    percent = _percent(said["space"])
    if percent > full_percent:
        yield (
            f"{directory} is {percent} percent full, more than {full_percent}. "
            "Retire versions (onprem.deepseek.model_retire), or add storage hosts."
        )
    if said["certificate"].get("rc") != 0:
        yield f"its certificate ends within {certificate_hours} hours. Run onprem.deepseek.tls_renew."
    if said["care"].get("rc") == 0:
        yield "sync or scrub has failed. Look at 'journalctl -u deepseek-store-sync -u deepseek-store-scrub'."


def _percent(result: Mapping[str, Any]) -> int:
    """How full the file system is; what cannot be read counts as full."""
    lines = result.get("stdout_lines") or [""]
    digits = re.sub("[^0-9]", "", str(lines[-1]))
    return int(digits) if digits else 100


def missing_copies(
    storage: Sequence[str], held: Mapping[str, Mapping[str, str]], asked: Sequence[str]
) -> list[str]:
    """Say which of the hosts that were *asked* lack a release that they are to hold. *held* has the releases of each host."""
    labels = sorted({label for releases in held.values() for label in releases})
    return [
        f"{host}: it has no whole copy of {label}. It pulls it by itself when the others answer."
        for label in labels
        for host in holders(label, storage)
        if host in asked and label not in held.get(host, {})
    ]
