# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Job templates started by ansible-runner in a private data directory as AWX makes it.

There the inventory is a program that prints it, variables are in env/extravars, and a limit is an
option. Nobody answers: who asks is ended. Every playbook is read with the hosts that it is for;
those that refuse what a survey lets through are run.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import ansible_runner
import awx_data
import pytest
import yaml
from forked_playbooks import forked

from ansible_collections.onprem.deepseek.plugins.module_utils.awx.configuration import (
    configuration,
)

ROOT = Path(__file__).resolve().parents[3]
GROUPS = {
    "gateway": ["gateway-1"],
    "inference": ["inference-1", "inference-2"],
    "storage": ["storage-1", "storage-2", "storage-3"],
    "release": ["inference-1"],
}
FOUND = configuration(awx_data.data(), {})["objects"]["job_templates"]
TEMPLATES = {Path(one["playbook"]).stem: one for one in FOUND}


def site() -> dict[str, Any]:
    """What an inventory of AWX prints: hosts of an example, all of them this machine."""
    hosts = {name for members in GROUPS.values() for name in members}
    text = (ROOT / "inventories/production.example/group_vars/all.yml").read_text()
    variables = {
        **yaml.safe_load(text),
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    return {
        "all": {"children": [*GROUPS], "vars": variables},
        **{name: {"hosts": members} for name, members in GROUPS.items()},
        "_meta": {"hostvars": {name: {} for name in hosts}},
    }


def answers(template: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a survey, and texts for what has none."""
    questions = template["survey_spec"].get("spec", ())
    return {
        one["variable"]: one["default"] if one["default"] != "" or not one["required"] else "a-1"
        for one in questions
    }


def prepared(home: Path, playbook: str, limit: str = "", **more: Any) -> dict[str, Any]:
    """Make the private data directory of a template; gives what ansible-runner is called with."""
    template = TEMPLATES[playbook]
    for name in ("env", "inventory"):
        (home / name).mkdir(parents=True)
    (home / "project").symlink_to(ROOT)
    inventory = home / "inventory/hosts"
    inventory.write_text(f"#!{sys.executable}\nprint({json.dumps(json.dumps(site()))})\n")
    inventory.chmod(inventory.stat().st_mode | stat.S_IXUSR)
    variables = {
        **template["extra_vars"],
        **answers(template),
        "awx_job_template_name": template["name"],
        **more.pop("extravars", {}),
    }
    (home / "env/extravars").write_text(json.dumps(variables))
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "HOME": str(home),
        # Facts are of hosts, which this machine is not.
        "ANSIBLE_GATHERING": "explicit",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (home / "env/envvars").write_text(json.dumps(environment))
    (home / "env/settings").write_text(json.dumps({"job_timeout": 500, "idle_timeout": 250}))
    return {
        "private_data_dir": str(home),
        "playbook": template["playbook"],
        "limit": limit or None,
        "quiet": True,
        **more,
    }


def start(home: Path, playbook: str, **more: Any) -> tuple[int, str]:
    """Run the playbook of a template; gives its status and what it said."""
    done = ansible_runner.run(**prepared(home, playbook, **more))
    return done.rc, done.stdout.read()


def limit_of(playbook: str) -> str:
    return "inference-1" if TEMPLATES[playbook]["ask_limit_on_launch"] else ""


def unlike_its_hosts(playbook: str, status: int, said: str) -> bool:
    """Whether a list of a template's hosts is not that of its playbook and its limit."""
    named = {name for name in ("gateway-1", "inference-1", "storage-1") if name in said}
    wanted = {limit_of(playbook)} & {*GROUPS["inference"]} or named
    return (
        status != 0
        or f"playbook: {TEMPLATES[playbook]['playbook']}" not in said
        or not named
        or named != wanted
    )


def test_every_template_can_be_started(tmp_path: Path) -> None:
    """The commands are those that ansible-runner has for the directories."""
    configs = []
    for playbook in TEMPLATES:
        directory = tmp_path / playbook
        asked = prepared(directory, playbook, limit_of(playbook), cmdline="--list-hosts")
        configs.append(ansible_runner.interface.init_runner(**asked).config)
    commands = [[str(word) for word in config.command] for config in configs]
    found = forked(commands, configs[0].env, ROOT)
    wrong = {
        playbook: (status, said)
        for playbook, (status, said) in zip(TEMPLATES, found, strict=True)
        if unlike_its_hosts(playbook, status, said)
    }
    assert wrong == {}


def test_a_template_with_a_limit_is_started_by_ansible_runner(tmp_path: Path) -> None:
    """A sample of the others."""
    status, said = start(tmp_path, "verify", limit="inference-1", cmdline="--list-hosts")
    assert not unlike_its_hosts("verify", status, said), said


@pytest.mark.parametrize(
    ("playbook", "given", "says"),
    [
        (
            "storage_replace_host",
            {},
            "replace_new (a-1) must be a host of the group 'storage'",
        ),
        (
            "model_cache",
            {"cache_version": "../1"},
            "cache_version is '../1'; name a published version",
        ),
        (
            "tls_revoke",
            {"revoke_hosts": " \n"},
            "revoke_hosts must be a list of inventory names",
        ),
    ],
)
def test_what_a_survey_lets_through_is_refused_by_the_playbook(
    tmp_path: Path, playbook: str, given: dict[str, Any], says: str
) -> None:
    status, said = start(tmp_path, playbook, extravars=given)
    assert status == 2
    assert says in " ".join(said.split())
