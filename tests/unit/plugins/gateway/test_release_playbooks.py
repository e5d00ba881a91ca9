# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of canaries on a site of two gateways, without the site's other roles."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from played import HERE, KEPT_PYTHON, play
from rollout_site import RolloutSite
from waiting import until

ROOT = Path(__file__).resolve().parents[4]
LIST = [
    {"model": "chat", "version": "1.0.0", "checkpoint": "/srv/chat", "workers": ["in-1:a"]},
    {
        "model": "chat",
        "version": "1.1.0",
        "checkpoint": "/srv/chat-1.1",
        "workers": ["in-1:b"],
        "share": [5, 25],
    },
]


@dataclass(frozen=True)
class Controller:
    """Runs the plays of a playbook that are not another playbook's."""

    site: RolloutSite
    home: Path

    def run(self, *books: str, options: Sequence[str] = (), **more: Any) -> tuple[int, str]:
        """The status and what was printed, of one run; of release_canary its last play."""
        plays: list[dict[str, Any]] = []
        for book in books:
            read = yaml.safe_load((ROOT / "playbooks" / f"release_{book}.yml").read_text())
            own = [play for play in read if "hosts" in play]
            plays += own[-1:] if book == "canary" else own
        # where its tasks and variables are
        path = self.home / "play.yml"
        text = yaml.safe_dump(plays)
        for directory in ("tasks/", "vars/"):
            text = text.replace(directory, f"{ROOT}/playbooks/{directory}")
        path.write_text(text)
        given = {
            "canary_program": str(self.home / "rollout"),
            "canary_records": str(self.site.records),
            "canary_pages": str(self.home / "pages"),
            "canary_by": "ops",
            **more,
        }
        done = play(
            path,
            *("--extra-vars", json.dumps(given), *options),
            inventory=self.home / "hosts.json",
            **KEPT_PYTHON,
        )
        return done.status, done.words


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    site = RolloutSite(tmp_path_factory.mktemp("rp"), ["chat"])
    home = site.directory
    program = home / "rollout"
    command = shlex.join(site.program("rollout", "--settings", str(site.settings)))
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (home / "store/releases/chat").mkdir(parents=True)
    for version in ("1.0.0", "1.1.0"):
        (home / f"store/releases/chat/{version}.json").write_text(version)
    gateways = {
        name: {
            "canary_socket": str(gateway.directory / "admin.sock"),
            "canary_map": str(gateway.directory / "shares.map"),
        }
        for name, gateway in site.gateways.items()
    }
    inventory = {
        "all": {
            "vars": {
                **HERE,
                "deepseek_store_dir": str(home / "store"),
                "deepseek_releases": LIST,
            },
            "children": {
                "gateway": {"hosts": gateways},
                "inference": {
                    "hosts": {"in-1": {"deepseek_workers": [{"name": "a"}, {"name": "b"}]}}
                },
                "release": {"hosts": {"in-1": {}}},
            },
        }
    }
    (home / "hosts.json").write_text(json.dumps(inventory))
    try:
        site.start()
        yield Controller(site, home)
    finally:
        site.stop()


def test_a_canary_begins_waits_for_its_judgement_and_is_taken_back(controller: Controller) -> None:
    site = controller.site
    status, said = controller.run("canary", "canary", "status", "promote")
    assert (status, site.shares("chat")) == (2, [50, 50]), said
    assert "chat/1.1.0 has 5 % of the requests" in said
    assert " in all, changed=1" in said
    assert "chat/1.1.0 is step at 5.0 %, and is promoted once it was judged good" in said
    assert (site.record("chat")["steps"], site.record("chat")["started_by"]) == ([50, 250], "ops")
    assert "<html" in (controller.home / "pages/chat.html").read_text()

    status, said = controller.run("stop", options=["--check"])
    assert (status, site.shares("chat")) == (0, [50, 50]), said
    limited = ["--limit", "in-1,gateway-1"]
    status, said = controller.run("stop", options=limited, canary_reason="too dear")
    assert (status, site.shares("chat")) == (0, [0, 0]), said
    assert site.record("chat")["reason"] == "too dear"

    given = {"deepseek_releases": LIST}
    status, said = controller.run("promote", **given)
    assert status == 2
    assert "deepseek_releases was set by --extra-vars, which no playbook can replace" in said
    assert set(re.findall(r" changed=(\d+)", said)) == {"0"}

    status, said = controller.run("stop", "rollback", "canary")
    assert status == 2
    assert "version: 1.0.0 workers: - in-1:a - in-1:b" in said
    assert set(re.findall(r" changed=(\d+)", said)) == {"0"}
    assert "deepseek_releases has no canary: add an entry" in said


def test_a_share_goes_without_the_release_host_and_stays_away(controller: Controller) -> None:
    """The judge goes on and renews what it has ordered."""
    site = controller.site
    status, said = controller.run("canary", canary_retry=True)
    assert (status, site.shares("chat")) == (0, [50, 50]), said
    status, said = controller.run("stop", options=["--limit", "gateway"])
    assert status == 0, said
    until(lambda: site.state("chat") == "rolled_back")
    assert site.shares("chat") == [0, 0]
    assert "they were taken away there" in site.record("chat")["reason"]
