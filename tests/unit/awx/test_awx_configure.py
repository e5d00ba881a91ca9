# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/awx_configure.yml against a stand-in for AWX's API, over HTTP.

What the stand-in does not prove is in docs/how-to/awx_configure.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awx_data
import pytest
from awx_stand_in import TOKEN, Controller, served

from ansible_collections.onprem.deepseek.plugins.module_utils.awx import specifications
from ansible_collections.onprem.deepseek.plugins.module_utils.awx.surveys import survey

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
CHANGED = re.compile(r"^changed: \[localhost\] => \(item=(.+?)\)(?: => *)?$", re.MULTILINE)


@dataclass(frozen=True)
class Awx:
    """A stand-in, empty but for what AWX has by itself, and its URL."""

    controller: Controller
    url: str
    home: Path

    def call(self, program: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run a program of Ansible; gives its status and what it said."""
        done = subprocess.run(
            [str(BIN / program), "--inventory", "localhost,", *arguments],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
                "CONTROLLER_HOST": self.url,
                "CONTROLLER_OAUTH_TOKEN": TOKEN,
                # The modules read all authorities at every request, also of plain HTTP.
                "SSL_CERT_FILE": os.devnull,
                "SSL_CERT_DIR": str(self.home),
                **environment,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def configure(self, *arguments: str, **more: Any) -> tuple[int, list[str], int, str]:
        """Run the playbook; gives its status, what changed, how many writes, and its output."""
        site = self.home / "site.json"
        site.write_text(json.dumps({**awx_data.SITE, **more}))
        before = len(self.controller.writes)
        status, said = self.call(
            "ansible-playbook",
            *("playbooks/awx_configure.yml", "--extra-vars", f"@{site}", *arguments),
            ANSIBLE_STRATEGY="in_process",
            ANSIBLE_STRATEGY_PLUGINS=str(Path(__file__).with_name("strategy")),
        )
        return status, sorted(CHANGED.findall(said)), len(self.controller.writes) - before, said

    def done(self, *arguments: str) -> tuple[list[str], int]:
        status, changed, writes, said = self.configure(*arguments)
        assert status == 0, said
        return changed, writes


@pytest.fixture
def awx(tmp_path: Path) -> Iterator[Awx]:
    controller = Controller()
    for name in ("Machine", "Source Control"):
        controller.add("credential_types", {"name": name, "organization": None})
    with served(controller) as url:
        yield Awx(controller, url, tmp_path)


def test_credentials_that_are_missing_end_the_run_before_a_write(awx: Awx) -> None:
    status, _changed, writes, said = awx.configure(awx_credential_inputs={})
    assert status != 0
    assert writes == 0
    assert "Nothing was changed. 2 found:" in said
    assert "credential 'deepseek hosts' (Machine) is not in AWX: create it there" in said


def test_check_mode_says_what_a_run_changes_and_another_writes_nothing(awx: Awx) -> None:
    """The first run, a second one, and one that puts right what was changed by hand."""
    predicted, writes = awx.done("--check")
    assert writes == 0
    changed, writes = awx.done()
    assert writes > len(changed)
    assert changed == predicted
    there = awx.controller.objects
    assert len(there["job_templates"]) == len(awx_data.data()["job_templates"])
    assert awx.done() == ([], 0)
    hosts = awx.controller.named("credentials", "deepseek hosts")
    assert hosts["inputs"] == awx_data.SITE["awx_credential_inputs"]["deepseek hosts"]
    pins = awx.controller.named("credential_types", "deepseek PKCS#11 PINs")
    assert pins["injectors"]["file"]["template.ca_pin"] == "{{ ca_pin }}"

    controller = awx.controller
    found = controller.surveys[controller.named("job_templates", "deepseek model_cache")["id"]]
    found["spec"][0]["required"] = False
    controller.named("job_templates", "deepseek site")["limit"] = "gateway"
    image = controller.named("execution_environments", "deepseek execution environment")
    image["image"] = "ee:latest"
    schedule = controller.named("schedules", "deepseek health, weekly")
    del controller.objects["schedules"][schedule["id"]]
    node = next(
        one
        for one in controller.objects["workflow_job_template_nodes"].values()
        if one["identifier"] == "preflight" and controller.lists.get((one["id"], "success_nodes"))
    )
    controller.lists[node["id"], "success_nodes"].clear()
    hosts = controller.named("job_templates", "deepseek verify")["id"]
    controller.lists[hosts, "credentials"].clear()
    expected = [
        "deepseek execution environment",
        "deepseek health, weekly",
        "deepseek model_cache",
        "deepseek rollout, preflight",
        "deepseek site",
        "deepseek verify",
    ]
    assert awx.done("--check") == (expected, 0)
    changed, writes = awx.done()
    assert changed == expected
    assert writes == len(expected)
    template = controller.named("job_templates", "deepseek model_cache")
    assert controller.surveys[template["id"]]["spec"][0]["required"]


def test_another_organization_is_refused_before_a_write(awx: Awx) -> None:
    ours = awx.controller.add("organizations", {"name": "DeepSeek"})
    awx.controller.add("inventories", {"name": "deepseek site", "organization": ours["id"]})
    status, _changed, writes, said = awx.configure(awx_organization="Deepseek")
    assert status != 0
    assert writes == 0
    assert "belongs to DeepSeek in AWX, not to 'Deepseek': correct awx_organization" in said


def test_an_answer_of_the_wrong_type_is_refused_by_name(awx: Awx) -> None:
    """With a module of awx.awx as Ansible runs it."""
    asks = {"name": "deepseek driver_upgrade", "survey_enabled": True}
    never = {f"ask_{name}_on_launch": False for name in ("variables", "limit")}
    template = awx.controller.add("job_templates", {**asks, **never})
    options = specifications.of_playbooks()["driver_upgrade"]
    awx.controller.surveys[template["id"]] = survey("", options)
    launch = {"name": "deepseek driver_upgrade", "extra_vars": {"driver_upgrade_serial": "two"}}
    arguments = ("localhost", "--connection", "local", "--module-name", "awx.awx.job_launch")
    python = json.dumps({"ansible_python_interpreter": sys.executable})
    arguments += ("--args", json.dumps(launch), "--extra-vars", python)
    status, said = awx.call("ansible", *arguments)
    assert status != 0
    assert "Value two for 'driver_upgrade_serial' expected to be an integer." in said
