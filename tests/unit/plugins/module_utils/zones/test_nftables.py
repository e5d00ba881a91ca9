# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a table with the real nft, in a network namespace; systemd alone is stood in for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[5]
SYSTEMD = """#!/usr/bin/env python3
# systemd-run arms, systemctl says whether and disarms; fire does what the timer would.
import os, pathlib, subprocess, sys
armed = pathlib.Path(os.environ["ARMED"])
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if name == "systemd-run":
    command = words[words.index("nft"):]
    armed.write_text(" ".join(command))
elif words[0] == "is-active":
    sys.exit(0 if armed.exists() and words[-1].endswith(".timer") else 3)
elif words[0] == "stop":
    armed.unlink()
"""
BEGIN = """
import os, pathlib, subprocess, sys
sys.path.insert(0, os.environ["COLLECTIONS"])
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.nftables import *
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.probe import probe_all

armed = pathlib.Path(os.environ["ARMED"])
directory = str(armed.parent)
site = Table("site", directory + "/boot.nft", directory + "/run")

def run(argv, data):
    done = subprocess.run(argv, input=data, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr

def nft(*words):
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout

def fire():
    subprocess.run(armed.read_text().split(), check=True)
    armed.unlink()

def ping():
    probe_all([{"target": "127.0.0.1", "protocol": "icmp"}], 0.2, 1)

def table(rule="accept", name="site"):
    return "\\n".join([
        f"table inet {name} {{",
        "counter hits { packets 0 bytes 0 }",
        "chain input {",
        "type filter hook input priority -10; policy drop;",
        "icmp type echo-request counter name hits accept",
        f"tcp dport 22 {rule}",
        "}", "}", ""])
"""


def in_namespace(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program as root of a network namespace that nothing else uses."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("systemd-run", "systemctl"):
        (tools / name).write_text(SYSTEMD)
        (tools / name).chmod(0o755)
    script = tmp_path / "program.py"
    script.write_text(BEGIN + textwrap.dedent(program))
    return subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, str(script)],
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}:/usr/sbin",
            "ARMED": str(tmp_path / "armed"),
            "COLLECTIONS": str(ROOT / ".cache" / "collections"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def passes(tmp_path: Path, program: str) -> None:
    done = in_namespace(tmp_path, program)
    assert done.returncode == 0, done.stderr


def test_a_table_is_loaded_confirmed_and_found_unchanged(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        wanted = canonical(run, site, table())
        assert listing(run, site) == ""
        load(run, site, table(), 60)
        assert listing(run, site) == wanted and pending(run, site)
        assert confirm(run, site, wanted) is True
        assert not pending(run, site)
        assert confirm(run, site, wanted) is False
        """,
    )


def test_the_timer_takes_back_to_what_was_before(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        load(run, site, table(), 60)
        fire()
        assert listing(run, site) == ""  # nothing was there
        load(run, site, table(), 60)
        confirm(run, site, canonical(run, site, table()))
        before = nft("list", "ruleset")
        load(run, site, table("drop"), 60)
        assert "dport 22 drop" in nft("list", "ruleset")
        fire()
        assert nft("list", "ruleset") == before
        """,
    )


def test_what_was_taken_back_is_not_confirmed(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        load(run, site, table(), 60)
        fire()
        try:
            confirm(run, site, canonical(run, site, table()))
        except NftablesError as error:
            assert "taken back" in str(error)
        else:
            raise SystemExit("it was confirmed")
        """,
    )


def test_a_second_load_waits_for_the_first(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        load(run, site, table(), 60)
        try:
            load(run, site, table("drop"), 60)
        except NftablesError as error:
            assert "nobody has confirmed" in str(error)
        else:
            raise SystemExit("it was loaded")
        assert revert(run, site) and listing(run, site) == "" and not pending(run, site)
        """,
    )


def test_tables_of_others_stay_and_counters_go_on(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        nat = "type nat hook postrouting priority 100; masquerade;"
        run(["nft", "-f", "-"], f"table ip nat {{ chain post {{ {nat} }} }}")
        run(["nft", "-f", "-"], table(name="runtime"))
        foreign = nft("-s", "list", "ruleset")
        load(run, site, table(), 60)
        confirm(run, site, canonical(run, site, table()))
        assert nft("-s", "list", "ruleset").startswith(foreign)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        ping()
        counted = counters(run, site)["hits"]
        assert counted[0] == 1, counted
        load(run, site, table("drop"), 60)
        assert counters(run, site)["hits"] == counted
        ping()
        assert counters(run, site)["hits"][0] == 2
        assert nft("-s", "list", "ruleset").startswith(foreign)
        """,
    )


def test_what_nft_refuses_changes_nothing(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        load(run, site, table(), 60)
        confirm(run, site, canonical(run, site, table()))
        before = nft("list", "ruleset")
        for bad in (table("jump nowhere"), table(name="other"), "table inet site {\\n"):
            try:
                canonical(run, site, bad)
                load(run, site, bad, 60)
            except NftablesError:
                continue
            raise SystemExit(bad)
        assert nft("list", "ruleset") == before and not pending(run, site)
        """,
    )


def test_a_rule_changed_by_hand_is_a_difference(tmp_path: Path) -> None:
    passes(
        tmp_path,
        """
        load(run, site, table(), 60)
        confirm(run, site, canonical(run, site, table()))
        nft("insert", "rule", "inet", "site", "input", "tcp", "dport", "23", "accept")
        assert "dport 23" in listing(run, site)
        assert listing(run, site) != canonical(run, site, table())
        """,
    )


@pytest.fixture(autouse=True)
def namespaces_are_allowed() -> None:
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "nft", "list", "ruleset"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    )
    assert done.returncode == 0, f"these tests need nftables and network namespaces: {done.stderr}"
