# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that end in certificates, files and units are judged once, by one rule."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_names import problems


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a" * 63 + ".b" * 5, "it has 73 characters, and a certificate's common name has 64"),
        ("n" * 72, "it has 72 characters"),
        ("n" * 64, "it is no host name"),
        ("存储-1", "it has '储', '存'"),
        ("storage 1", "it has ' '"),
        ("storage_1", "it has '_'"),
        ("Storage-1", "it has capitals"),
        ("10.0.0.1", "it is an IP address"),
        ("fd00::1", "it is an IP address"),
        ("localhost", "it is Ansible's name for the controller"),
        ("LOCALHOST.localdomain", "it is Ansible's name for the controller"),
        ("-a", "it is no host name"),
        ("a..b", "it is no host name"),
        ("a.", "it is no host name"),
        ("10.0.1", "it is no host name"),
        ("storage/1", "it has '/'"),
        ("gateway", "a group has the same name"),
    ],
)
def test_names_that_cannot_be_a_hosts(name: str, says: str) -> None:
    ((where, what, remedy),) = problems([name], ["gateway"])
    assert where == name
    assert what.startswith(says)
    assert remedy


@pytest.mark.parametrize("name", ["a", "storage-1", "n" * 63, "storage-1.room-2.example.org"])
def test_names_that_can(name: str) -> None:
    assert not list(problems([name], ["gateway"]))


@given(st.text(max_size=80))
def test_what_is_taken_is_a_host_name_that_a_certificate_takes(name: str) -> None:
    if not list(problems([name])):
        assert len(name) <= 64
        assert re.fullmatch(r"[a-z0-9.-]+", name)
