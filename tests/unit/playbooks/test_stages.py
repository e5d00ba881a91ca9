# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages: a gate that stage_pass.yml signs in a real token opens stage_promote.yml."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from played import KEPT_PYTHON, play

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.gate import STAGES
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Decision,
    Record,
    Release,
    State,
    to_json,
)

ROOT = Path(__file__).resolve().parents[3]
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
DAY_SECONDS = 86400
RELEASE = {"model": "m", "checkpoint": "/srv/import/m"}


def stage_variables(stage: str) -> dict[str, Any]:
    text = (ROOT / "inventories/stages" / stage / "stage.yml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["all"]["vars"]
    return found


def plays(book: str) -> list[dict[str, Any]]:
    """The plays of a playbook, without the playbooks that it imports."""
    text = (ROOT / "playbooks" / book).read_text()
    return [play for play in yaml.safe_load(text) if "hosts" in play]


@dataclass(frozen=True)
class Site:
    """This machine as a release host: a token, a store with a release, and its rollout's record."""

    home: Path

    @property
    def digest(self) -> str:
        return hashlib.sha256((self.home / "store/releases/m/2.json").read_bytes()).hexdigest()

    def play(
        self, tasks: list[dict[str, Any]], stage: str = "pilot", **more: Any
    ) -> tuple[int, str]:
        """Run plays with the variables of a stage; returns the status and what was printed."""
        variables = {
            **stage_variables(stage),
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "deepseek_releases": [
                {**RELEASE, "version": "1", "workers": ["inference-1:a"]},
                {
                    **RELEASE,
                    "version": "2",
                    "workers": ["inference-1:b"],
                    "share": "{{ stage_share }}",
                },
            ],
            "deepseek_store_dir": str(self.home / "store"),
            "deepseek_config_dir": str(self.home),
            "deepseek_release_public_key_file": str(self.home / "release.pub"),
            "deepseek_pkcs11_module": SOFTHSM,
            "stage_gates_dir": str(self.home / "gates"),
            "stage_rollout_dir": str(self.home / "rollout"),
            **more,
        }
        workers = {"deepseek_workers": [{"name": "a"}, {"name": "b"}]}
        hosts = {
            "release": {"hosts": {"release-1": {}}},
            "inference": {"hosts": {"inference-1": workers}},
        }
        inventory = {"all": {"vars": variables, "children": hosts}}
        (self.home / "inventory.json").write_text(json.dumps(inventory))
        (self.home / "play.yml").write_text(yaml.safe_dump(tasks))
        done = play(
            self.home / "play.yml",
            inventory=self.home / "inventory.json",
            SOFTHSM2_CONF=str(self.home / "hsm/release/softhsm2.conf"),
            **KEPT_PYTHON,
        )
        return done.status, done.said

    def record(self, requests: int, days: float, digest: str) -> None:
        counts = {
            name: {"canary_bad": 1, "canary_all": requests}
            for name in ("failures", "slow_first_tokens")
        }
        now = int(subprocess.check_output(["date", "+%s"]))
        began = now - days * DAY_SECONDS
        record = Record(
            model="m",
            state=State.STEP,
            stable=Release("1", "a" * 64),
            canary=Release("2", digest),
            steps=(50,),
            entered_at=began,
            started_at=began,
            decisions=(Decision(now, State.STEP, 0, "good", "", counts),),
        )
        (self.home / "rollout").mkdir(exist_ok=True)
        (self.home / "rollout/m.json").write_bytes(to_json(record))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    home = tmp_path_factory.mktemp("stages")
    token = home / "hsm/release"
    (token / "tokens").mkdir(parents=True)
    (token / "softhsm2.conf").write_text(
        f"directories.tokendir = {token}/tokens\nobjectstore.backend = file\n"
    )
    for name in ("pin", "so-pin"):
        (token / name).write_text(f"unit-{name}-1")
        (token / name).chmod(0o400)
    (home / "store/releases/m").mkdir(parents=True)
    (home / "store/releases/m/2.json").write_text("{}")
    made = Site(home)
    pkcs11 = {"module_path": SOFTHSM, "pin_file": str(token / "pin")}
    prepared = [
        {
            "hosts": "release",
            "gather_facts": False,
            "tasks": [
                {
                    "onprem.deepseek.pkcs11_token": {
                        **pkcs11,
                        "label": "deepseek-release",
                        "so_pin_file": str(token / "so-pin"),
                    }
                },
                {
                    "onprem.deepseek.pkcs11_key": {
                        **pkcs11,
                        "token": "deepseek-release",
                        "label": "release-signing",
                    }
                },
                {
                    "onprem.deepseek.pkcs11_signature": {
                        **pkcs11,
                        "token": "deepseek-release",
                        "key": "release-signing",
                        "content": "{}",
                    },
                    "register": "signed",
                },
                {
                    "ansible.builtin.copy": {
                        "content": "{{ signed.public_key }}",
                        "dest": str(home / "release.pub"),
                        "mode": "0644",
                    }
                },
            ],
        }
    ]
    status, said = made.play(prepared)
    assert status == 0, said
    return made


def test_every_stage_has_an_inventory_with_the_same_variables() -> None:
    there = {path.name for path in (ROOT / "inventories/stages").iterdir()}
    assert there == set(STAGES)
    names = [set(stage_variables(stage)) for stage in STAGES]
    assert names[0] == names[1] == names[2]
    assert [stage_variables(stage)["stage_name"] for stage in STAGES] == list(STAGES)


def test_a_release_goes_from_stage_to_stage_by_signed_gates_alone(site: Site) -> None:
    promote, passing = plays("stage_promote.yml"), plays("stage_pass.yml")
    gate = site.home / f"gates/m-{site.digest[:16]}-pilot.json"

    status, said = site.play(promote, "gray")
    assert status != 0
    assert f"{gate} is missing: pass stage pilot with m/2 first" in said

    site.record(requests=400, days=2, digest=site.digest)
    status, said = site.play(passing, stage_approver="Dr. Li")
    assert status != 0
    assert "400 requests of 500" in said
    assert "2.00 days of 5" in said
    assert not gate.exists()

    site.record(requests=800, days=6, digest=site.digest)
    status, said = site.play(passing, stage_approver="Dr. Li")
    assert status == 0, said
    assert json.loads(gate.read_text())["approver"] == "Dr. Li"
    status, said = site.play(promote, "gray")
    assert status == 0, said
    assert "m/2 may enter stage gray." in said

    signed = gate.read_text()
    gate.write_text(signed.replace("Dr. Li", "Dr. Lo"))
    status, said = site.play(promote, "gray")
    assert status != 0
    assert "was changed, or signed with another key" in said
