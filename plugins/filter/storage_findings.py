# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: storage_findings
short_description: What is wrong with a storage host, and which releases it holds
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Judges one storage host by the results of what it was asked. A question that was skipped is not judged, and what cannot be read counts as
    wrong.
options:
  _input:
    description:
      - The results of the C(answer) of its web server, of module M(onprem.deepseek.model_release_info) (C(store)), of C(df) (C(space)), of
        C(openssl x509 -checkend) (C(certificate)), and of C(systemctl is-failed) (C(care)).
    type: dict
    required: true
  host:
    description: The host's name.
    type: str
    required: true
  directory:
    description: The directory of the store.
    type: str
    required: true
  full_percent:
    description: How full its file system may be.
    type: int
    required: true
  certificate_hours:
    description: For how long its certificate must last, as it was asked for.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Note what is wrong
  ansible.builtin.set_fact:
    found: "{{ said | onprem.deepseek.storage_findings(inventory_hostname, '/srv/store', 90, 24) }}"
"""

RETURN = r"""
_value:
  description: C(releases), the digest of each release of which the host has a whole copy, by C(model/version); and C(problems), one line each.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.onprem.deepseek.plugins.module_utils.store.health import host_findings


def storage_findings(
    said: Mapping[str, Mapping[str, Any]],
    host: str,
    directory: str,
    full_percent: int | str,
    certificate_hours: int | str,
) -> dict[str, Any]:
    """Return what is wrong with a host, and what it holds."""
    return host_findings(host, said, directory, int(full_percent), int(certificate_hours))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"storage_findings": storage_findings}
