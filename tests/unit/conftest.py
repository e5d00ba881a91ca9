# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the collection importable under its full name from a plain checkout."""

from __future__ import annotations

import locale
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "collections"))

# Ansible refuses to start with another encoding, and files are UTF-8, whatever the locale is.
os.environ["LC_ALL"] = "C.UTF-8"
locale.setlocale(locale.LC_ALL, "")

# How fast examples are made says something of the machine, and nothing of the code.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.fixture(scope="session", autouse=True)
def _files_of_ansible(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Ansible writes on the host that it configures, this machine, goes with the tests.

    Its default is the home directory, which a user in a container or a namespace may not write to.
    """
    os.environ["ANSIBLE_REMOTE_TMP"] = str(tmp_path_factory.mktemp("ansible"))
