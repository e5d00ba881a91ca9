# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operating systems that hosts may have: which were tested, which a site may accept though they were not, and why others are refused.

Preflight, the prechecks of roles and the pages take what they say of a system from here. A system is named by its distribution and
version, those of Ansible's facts; of Debian the major version is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# By distribution and version the Python that it has, for which there is a lock of the serving package.
TESTED: Mapping[str, Mapping[str, str]] = {"Debian": {"12": "3.11", "13": "3.13"}}
# No role was run on them.
UNTESTED: Mapping[str, Mapping[str, str]] = {"Ubuntu": {"24.04": "3.12"}}
# What those lack that are asked for.
LACKING: Mapping[str, Mapping[str, str]] = {
    "Ubuntu": {
        "22.04": "its Python 3.10 has no lock of the serving package, and its HAProxy 2.4 cannot take keys from providers of OpenSSL"
    }
}
ACCEPTING = "deepseek_accept_untested_os"
# Pythons that hosts may have.
PYTHONS = {
    python for table in (TESTED, UNTESTED) for one in table.values() for python in one.values()
}
NAMES = ", ".join(f"{name} {' or '.join(versions)}" for name, versions in TESTED.items())


@dataclass(frozen=True)
class Verdict:
    """What is judged of a system: its name, whether roles were tested on it, and why it is refused and what to do, if it is."""

    name: str
    tested: bool
    refused: str = ""
    remedy: str = ""


def judged(facts: Mapping[str, Any], accepts_untested: bool) -> Verdict:
    """Judge the system that these facts describe, on a site that accepts untested ones or not."""
    distribution = str(facts.get("distribution"))
    version = _version(facts, distribution)
    name = f"{distribution} {version}"
    reinstall = f"Reinstall the host with {NAMES}"
    if version in TESTED.get(distribution, ()):
        return Verdict(name, tested=True)
    if version not in UNTESTED.get(distribution, ()):
        why = LACKING.get(distribution, {}).get(version, "there is nothing for this system")
        return Verdict(name, tested=False, refused=why, remedy=reinstall)
    if not accepts_untested:
        remedy = f"{reinstall}, or set {ACCEPTING} to true and test it yourself"
        return Verdict(name, tested=False, refused="no role was tested on it", remedy=remedy)
    return Verdict(name, tested=False)


def _version(facts: Mapping[str, Any], distribution: str) -> str:
    major = str(facts.get("distribution_major_version"))
    known = (*TESTED.get(distribution, ()), *UNTESTED.get(distribution, ()))
    return (
        major
        if major in known or not facts.get("distribution_version")
        else str(facts["distribution_version"])
    )
