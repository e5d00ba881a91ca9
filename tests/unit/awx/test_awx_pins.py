# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PINs that a credential of AWX gives a job as files, as role tls takes them to a host."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from played import KEPT_PYTHON, passed

ROOT = Path(__file__).resolve().parents[3]


def given(home: Path, token: str, pin: str) -> dict[str, Any]:
    """A task that has the PIN of a token chosen, where a job has this text in the file for it."""
    path = home / f"{token}-{len(list(home.iterdir()))}"
    path.write_text(pin)
    return {
        "ansible.builtin.include_tasks": str(ROOT / "roles/tls/tasks/pin.yml"),
        "vars": {
            "__tls_token": {"name": token, "dir": str(home / "hsm" / token), "owner": "root"},
            "__tls_given_pins": {token: str(path)},
            "__tls_pin_name": "hsm-pin",
            "__tls_so_pin_name": "hsm-so-pin",
        },
    }


def test_a_pin_is_written_once_and_an_empty_one_not_at_all(tmp_path: Path) -> None:
    tasks = [
        given(tmp_path, "ca", "1234-secret\n"),
        {"ansible.builtin.debug": {"var": "__tls_chosen_pin"}},
        given(tmp_path, "ca", "another-secret"),
        given(tmp_path, "root", ""),
    ]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    done = passed(
        tmp_path / "play.yml",
        *("--diff", "-vv"),
        *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
        inventory="localhost,",
        **KEPT_PYTHON,
    )
    written = tmp_path / "hsm/ca/pin"
    assert written.read_text() == "1234-secret"
    assert written.stat().st_mode & 0o777 == 0o400
    assert f"file: {written}\n" in done.out
    assert "-secret" not in done.out
    assert not (tmp_path / "hsm/root").exists()
