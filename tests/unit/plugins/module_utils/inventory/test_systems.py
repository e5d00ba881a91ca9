# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which operating systems are tested, accepted untested, or refused, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import systems
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.systems import judged

ROOT = Path(__file__).resolve().parents[5]


def facts(distribution: str, version: str) -> dict[str, str]:
    """The facts of a host, as Ansible gathers them."""
    return {
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.partition(".")[0],
    }


@pytest.mark.parametrize("version", ["12", "12.11", "13", "13.1"])
@pytest.mark.parametrize("accepts", [True, False])
def test_a_tested_system_is_tested_whatever_the_site_accepts(version: str, accepts: bool) -> None:
    verdict = judged(facts("Debian", version), accepts)
    assert (verdict.name, verdict.tested) == (f"Debian {version[:2]}", True)
    assert (verdict.refused, verdict.remedy) == ("", "")


def test_an_untested_system_is_refused_until_the_site_accepts_it() -> None:
    refused = judged(facts("Ubuntu", "24.04"), False)
    assert refused.refused == "no role was tested on it"
    assert "set deepseek_accept_untested_os to true" in refused.remedy
    accepted = judged(facts("Ubuntu", "24.04"), True)
    assert (accepted.name, accepted.tested) == ("Ubuntu 24.04", False)
    assert accepted.refused == ""


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize(
    ("distribution", "version", "why"),
    [
        ("Ubuntu", "22.04", "Python 3.10"),
        ("Ubuntu", "22.04", "providers of OpenSSL"),
        ("Ubuntu", "24.10", "nothing"),
        ("Ubuntu", "26.04", "nothing"),
        ("Debian", "11.9", "nothing"),
        ("Debian", "14", "nothing"),
        ("Rocky", "9.4", "nothing"),
        ("Kylin Linux Advanced Server", "V10", "nothing"),
        ("UOS", "20", "nothing"),
        ("openEuler", "24.03", "nothing"),
        # a distribution that has a name of its own and a version of Debian's
        ("Deepin", "12", "nothing"),
    ],
)
def test_other_systems_are_refused_with_the_reason(
    distribution: str, version: str, why: str, accepts: bool
) -> None:
    verdict = judged(facts(distribution, version), accepts)
    assert why in verdict.refused
    assert verdict.name == f"{distribution} {version}"
    assert verdict.remedy == "Reinstall the host with Debian 12 or 13"


def test_a_host_without_facts_is_refused() -> None:
    assert judged({}, True).refused


def test_the_page_of_systems_has_every_one_that_is_judged() -> None:
    page = (ROOT / "docs/reference/systems.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    tables = (systems.TESTED, systems.UNTESTED, systems.LACKING)
    for table, said in zip(tables, ("tested", "untested", "refused"), strict=True):
        for name, versions in table.items():
            for version in versions:
                assert any(row.startswith(f"| {name} {version} | {said}") for row in rows), (
                    f"{name} {version}"
                )
