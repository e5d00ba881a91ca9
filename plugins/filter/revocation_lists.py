# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: revocation_lists
short_description: When each revocation list of a file ends
version_added: "0.1.0"
author: onprem.deepseek maintainers (@onprem-deepseek)
description:
  - Reads all revocation lists of a file in PEM. C(openssl crl) reads the first one only, and where any list has ended, every certificate
    is refused.
options:
  _input:
    description: Text of the file.
    type: str
    required: true
  now:
    description: The time in seconds since 1970 that C(days_left) counts from; the present by default.
    type: float
"""

EXAMPLES = r"""
- name: Expect that no list ends within a week
  ansible.builtin.assert:
    that: >-
      lookup('ansible.builtin.file', 'crl.pem') | onprem.deepseek.revocation_lists
      | selectattr('days_left', 'lt', 7) | length == 0
"""

RETURN = r"""
_value:
  description:
    - For each list C(issuer), the common name of the CA that it is of; C(not_after), when it ends, in seconds since 1970; and
      C(days_left), a number with fractions, less than 0 once it has ended.
  type: list
  elements: dict
"""

import re
import time
from collections.abc import Callable
from datetime import timezone
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

_LIST = re.compile("-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def _read(block: str, now: float) -> dict[str, Any]:
    crl = x509.load_pem_x509_crl(block.encode())
    # before version 42 of cryptography there is only the name without a time zone
    ends = getattr(crl, "next_update_utc", None) or crl.next_update
    if ends is None:
        raise ValueError("a list does not say when it ends")
    not_after = ends.replace(tzinfo=timezone.utc).timestamp()
    names = crl.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return {
        "issuer": str(names[0].value) if names else crl.issuer.rfc4514_string(),
        "not_after": int(not_after),
        "days_left": (not_after - now) / 86400,
    }


def revocation_lists(pem: str, now: float | None = None) -> list[dict[str, Any]]:
    """Return who issued each revocation list of a file, and when it ends."""
    if not HAS_CRYPTOGRAPHY:
        raise AnsibleFilterError(
            "revocation_lists: the controller's Python lacks cryptography, which ansible-core needs, too; install it"
        )
    try:
        moment = time.time() if now is None else float(now)
        found = [_read(block, moment) for block in _LIST.findall(str(pem))]
    except ValueError as error:
        raise AnsibleFilterError(f"revocation_lists: {error}") from error
    if not found:
        raise AnsibleFilterError("revocation_lists: there is no revocation list in the file")
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"revocation_lists": revocation_lists}
