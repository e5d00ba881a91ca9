# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_report
short_description: Judge an inventory, its hosts and the network between them
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Takes what is known of the hosts, and returns everything that was judged, each with where it is, what was found, what is expected and
    what to do about it.
  - Role P(onprem.deepseek.preflight#role) collects what the filter needs.
options:
  _input:
    description:
      - One mapping for each host, with its C(name), its C(addresses) by zone and its site C(variables); whether it was C(asked), its
        C(facts) or the C(error) that stood in the way; the result of M(onprem.deepseek.host_info) as C(info) or its C(info_error); the
        labels of the releases that are C(published) on it; and what was said of C(checkpoints), C(refusals) of roles, C(zones), C(gpus), C(custody) of keys and
        network (C(listen), C(probes) and C(transfers)).
    type: list
    elements: dict
    required: true
  groups:
    description: The hosts of each group of the inventory.
    type: dict
    required: true
  network:
    description: How the network was measured, C(mode), C(port) and C(turns).
    type: dict
    default: {}
  at:
    description: When, for the report.
    type: str
    default: ""
  language:
    description: The language of C(lines).
    type: str
    choices: [en, zh-CN]
    default: en
  site:
    description: What lookup P(onprem.deepseek.site_variables#lookup) returns, for hosts that say nothing of it themselves.
    type: list
    elements: dict
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ (hosts | onprem.deepseek.preflight_report(groups)).lines }}"
"""

RETURN = r"""
_value:
  description:
    - C(ok), the number of checks that C(failed), C(hosts), the C(minimums) in force, C(network) and C(at).
    - C(checks) are mappings with C(host), C(name), C(status) (C(ok), C(failed), C(deferred) for what could not be judged now, or C(skipped)
      for what the site does not want to be judged), C(found), C(expected) and C(remedy).
    - C(lines) is the text for a terminal.
  type: dict
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import requirements
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.site_variables import common
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import report
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.check import DROPPED
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import LANGUAGES


def preflight_report(
    hosts: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    network: Mapping[str, Any] | None = None,
    at: str = "",
    site: Sequence[Mapping[str, Any]] | None = None,
    language: str = "en",
) -> dict[str, Any]:
    """Return everything that was judged."""
    if language not in LANGUAGES:
        raise AnsibleFilterError(f"preflight_report: the language is {', '.join(LANGUAGES)}")
    try:
        described = [report.Host(**host) for host in _with_site(hosts, site)]
        measured = report.Network(**(network or {}))
    except TypeError as error:
        raise AnsibleFilterError(
            f"preflight_report: a host or the network is not described as expected: {error}"
        ) from error
    checks = report.checks(groups, described, measured)
    failed = sum(check.status == report.FAILED for check in checks)
    given = common(described).get("deepseek_minimums")
    return {
        "ok": not failed,
        "failed": failed,
        "at": at,
        "hosts": [host.name for host in described],
        "minimums": requirements.merged(given),
        "network": asdict(measured),
        "checks": [asdict(check) for check in checks],
        "lines": report.lines(checks, len(described), language),
    }


_DROPPED = {"error": DROPPED, "broken": [DROPPED]}


def _with_site(
    hosts: Sequence[Mapping[str, Any]], site: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """What is known of each host, with what the inventory says of it. Of some hosts only the inventory says something."""
    if site is None:
        return list(hosts)
    known = {host["name"]: host for host in hosts}
    return [
        {
            **known.get(said["name"], _DROPPED),
            "name": said["name"],
            "addresses": said["values"].get("deepseek_zone_addresses"),
            "variables": said["values"],
            "unread": said["unread"],
            "role_problems": said["role_problems"],
        }
        for said in site
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"preflight_report": preflight_report}
