# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each revocation list of a file is watched, not the first one only."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.onprem.deepseek.plugins.filter.revocation_lists import FilterModule

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)


def crl(name: str, days: float) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateRevocationListBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        NOW - timedelta(days=900),
        NOW + timedelta(days=days),
    )
    signed = builder.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def read(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = FilterModule().filters()["revocation_lists"](
        text, now=NOW.timestamp()
    )
    return found


def test_the_lists_of_issuing_ca_root_and_former_ca_are_all_read() -> None:
    text = crl("issuing", 80) + "comment\n" + crl("root", -1.5) + crl('former "CA"', 10)
    assert [(item["issuer"], item["days_left"]) for item in read(text)] == [
        ("issuing", 80),
        ("root", -1.5),
        ('former "CA"', 10),
    ]
    assert read(text)[0]["not_after"] == int((NOW + timedelta(days=80)).timestamp())


def test_the_time_of_the_machine_counts_by_default() -> None:
    (found,) = FilterModule().filters()["revocation_lists"](crl("root", 1))
    left = NOW.timestamp() + 86400 - datetime.now(tz=timezone.utc).timestamp()
    assert abs(found["days_left"] * 86400 - left) < 3600


@pytest.mark.parametrize("text", ["", "no list", crl("root", 1)[:200]])
def test_a_file_without_a_list_is_refused(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="there is no revocation list"):
        read(text)


def test_a_damaged_list_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="revocation_lists: "):
        read(crl("root", 1).replace("MI", "AA", 1))
