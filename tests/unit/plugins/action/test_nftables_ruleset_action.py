# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The task nftables_ruleset with the real nft in a network namespace; systemd is stood in for.

Hosts that cut connections off are in the scenario network_segmentation; here are only its moments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.action.nftables_ruleset import ActionModule

ROOT = Path(__file__).resolve().parents[4]
# It arms nothing, and nothing is ever waiting, but for the file that says so.
SYSTEMD = """#!/bin/sh
case "$(basename "$0") $1" in
  "systemd-run "*) touch "$ARMED" ;;
  "systemctl is-active") test -e "$ARMED" ;;
  "systemctl stop") rm -f "$ARMED" ;;
esac
"""
TASKS = """
- hosts: localhost
  connection: local
  gather_facts: false
  module_defaults:
    onprem.deepseek.nftables_ruleset:
      table: site
      boot_file: {directory}/boot.nft
  vars:
    ruleset: |
      table inet site {{
        chain input {{
          type filter hook input priority -10; policy accept;
          tcp dport 22 accept
        }}
      }}
  tasks:
    - name: See what would be done
      onprem.deepseek.nftables_ruleset:
        content: "{{{{ ruleset }}}}"
      check_mode: true
      diff: true
      register: asked
    - name: Load
      onprem.deepseek.nftables_ruleset:
        content: "{{{{ ruleset }}}}"
      register: first
    - name: Again
      onprem.deepseek.nftables_ruleset:
        content: "{{{{ ruleset }}}}"
      register: second
    - name: Change it by hand
      ansible.builtin.command:
        argv: [nft, insert, rule, inet, site, input, tcp, dport, "23", accept]
    - name: See what was changed
      onprem.deepseek.nftables_ruleset:
        content: "{{{{ ruleset }}}}"
      check_mode: true
      diff: true
      register: drift
    - name: Refuse what nft refuses
      onprem.deepseek.nftables_ruleset:
        content: "table inet site {{\\n nonsense }}\\n"
      register: refused
      failed_when: "'nft refuses the ruleset' not in refused.msg"
    - name: Remove
      onprem.deepseek.nftables_ruleset:
        state: absent
      register: removed
    - name: Expect
      ansible.builtin.assert:
        that:
          - asked is changed and not asked.at_boot
          - asked.diff[0].before == '' and 'dport 22' in asked.diff[0].after
          - first is changed and first.at_boot and not first.waiting
          - first.diff | length == 2
          - second is not changed
          - second.ruleset_sha256 == first.ruleset_sha256
          - drift is changed
          - "'tcp dport 23 accept' in drift.diff[0].before"
          - "'tcp dport 23 accept' not in drift.diff[0].after"
          - removed is changed and removed.ruleset_sha256 == ''
"""


def test_a_ruleset_is_loaded_once_and_what_is_changed_by_hand_is_shown(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("systemd-run", "systemctl"):
        (tools / name).write_text(SYSTEMD)
        (tools / name).chmod(0o755)
    (tmp_path / "play.yml").write_text(TASKS.format(directory=tmp_path))
    done = subprocess.run(
        [
            # With a /run of its own, where the module keeps what it undoes.
            *("unshare", "--map-root-user", "--net", "--mount", "sh", "-c"),
            *('mount -t tmpfs tmpfs /run && exec "$@"', "sh"),
            str(Path(sys.executable).with_name("ansible-playbook")),
            "--inventory=localhost,",
            str(tmp_path / "play.yml"),
        ],
        cwd=ROOT,
        env={
            **{key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"},
            "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin",
            "ARMED": str(tmp_path / "armed"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache" / "collections"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "boot.nft").exists()


class Host(ActionModule):
    """The action against a host that takes *pause* seconds to let a new connection in."""

    def __init__(self, pause: float) -> None:
        self._task = SimpleNamespace(args={"revert_seconds": 1}, check_mode=False)
        self._connection = SimpleNamespace(reset=self._reset)
        self._pause = pause
        self._connections = 0

    def _reset(self) -> None:
        time.sleep(self._pause)
        self._pause = 0.0
        self._connections += 1

    def _connected_from(self) -> list[str]:
        return ["10.0.0.1", str(self._connections)]

    def _step(self, state: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return {"changed": True, "waiting": True}


@pytest.mark.parametrize("pause", [0.0, 1.3])
def test_a_connection_counts_only_if_it_was_let_in_before_the_timer(pause: float) -> None:
    result = Host(pause)._load(["10.0.0.1", "0"], {})
    if pause:
        assert result["failed"]
        assert (
            "After 1 s the host restored what was before, and can be reached again" in result["msg"]
        )
    else:
        assert result["connection"] == ["10.0.0.1", "1"]
        assert "failed" not in result
