# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The token that the pkcs11_* modules are tried on, and what a host asks of the authority in it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN = "unit"
Run = Callable[..., dict[str, Any]]


def openssl(*arguments: str, expect: int = 0) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def ca_arguments(home: Path) -> dict[str, Any]:
    return {
        "path": str(home / "ca.pem"),
        "token": TOKEN,
        "provider": "selfsigned",
        "key": "ca",
        "profile": "ca",
        "common_name": "unit CA",
        "validity_days": 3650,
        "renew_before_days": 365,
    }


def host_request(home: Path, name: str) -> str:
    """What a host does: a key in a file and a signing request."""
    key = str(home / f"{name}.key")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    return openssl("req", "-new", "-key", key, "-subj", "/CN=whatever I claim")
