# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence that playbooks/zones_verify.yml has written and signed on the controller."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab_hosts import LAB

EVIDENCE = LAB / "zones"
DOCUMENT = EVIDENCE / "zones.json"


@pytest.fixture(scope="module")
def report() -> Any:
    return json.loads(DOCUMENT.read_text(encoding="utf-8"))


def verified(document: Path, directory: Path) -> bool:
    """Whether the signature beside the report is one of this document, as anybody can ask."""
    signature = directory / "signature"
    signature.write_bytes(base64.b64decode((EVIDENCE / "zones.json.sig.b64").read_text()))
    done = subprocess.run(
        [
            *("openssl", "dgst", "-sha256", "-verify", EVIDENCE / "zones.pub"),
            *("-signature", signature, document),
        ],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def test_the_signature_is_of_the_report_and_of_no_other(tmp_path: Path) -> None:
    assert verified(DOCUMENT, tmp_path)
    forged = tmp_path / "forged.json"
    forged.write_text(DOCUMENT.read_text().replace("storage", "starage"))
    assert not verified(forged, tmp_path)


def test_the_matrix_is_whole(report: Any) -> None:
    assert report["wrong"] == []
    assert report["probes"] > 2500
    cells = report["cells"]
    # Over two families: the release host to where the gateway takes orders about canaries, and the
    # three others to where it has packages.
    assert cells["management"]["management"]["reached"] == 2 + 2 * 3
    # From the gateway, over two families, to five ports.
    assert cells["inference"]["inference"]["reached"] == 2 * 5
    storage = cells["storage"]["storage"]
    assert storage["reached"] > 0
    assert storage["stopped"] > storage["no_route"]


def test_what_services_need_is_let_in(report: Any) -> None:
    assert report["hosts"]["gateway-1"]["needs"] == 6
    assert [need for host in report["hosts"].values() for need in host["refused_needs"]] == []


def test_a_container_reached_nothing(report: Any) -> None:
    (container,) = report["hosts"]["inference-1"]["containers"]
    assert container["reached"] == 0
    assert container["tried"] > 500


def test_the_page_says_so_and_loads_nothing() -> None:
    page = (EVIDENCE / "zones.html").read_text(encoding="utf-8")
    assert "Everything is let through and stopped as the zones say" in page
    for absent in ('class="bad"', "http://", "https://", "<script"):
        assert absent not in page
