# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands that are shown after a rollout, as a shell reads them, and when they are shown."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from played import passed

from ansible_collections.onprem.deepseek.plugins.plugin_utils import next_steps

ROOT = Path(__file__).resolve().parents[4]
SITE = next_steps.Site(
    service_name="deepseek.example.org",
    address="198.51.100.11",
    port=443,
    model="r1",
    tls_dir="/etc/deepseek/tls",
    venv_dir="/opt/deepseek/serving",
    gateway="gateway-1",
    inference="inference-1",
    keys_file="",
    client_certificates=False,
    inventories=["/home/ops/my site", "a,b"],
)


def commands(site: next_steps.Site) -> list[list[str]]:
    """What begins at the margin, as words; the first line is a heading."""
    found = next_steps.lines(site)[1:]
    return [shlex.split(line) for line in found if line and not line.startswith(" ")]


def of(site: next_steps.Site, program: str) -> list[list[str]]:
    return [words for words in commands(site) if words[0] == program]


def after(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_the_question_is_one_that_the_service_takes() -> None:
    question, document = of(SITE, "curl")
    assert after(question, "--resolve") == ["deepseek.example.org:443:198.51.100.11"]
    assert "https://deepseek.example.org/v1/chat/completions" in question
    assert after(question, "--cacert") == ["ca.pem"]
    body = json.loads(after(question, "-d")[0])
    assert body["model"] == "r1"
    assert body["messages"][0]["role"] == "user"
    assert document[-1] == "https://deepseek.example.org/openapi.json"


def test_another_port_is_in_the_address() -> None:
    question, _document = of(replace(SITE, port=8443), "curl")
    assert after(question, "--resolve") == ["deepseek.example.org:8443:198.51.100.11"]
    assert "https://deepseek.example.org:8443/v1/chat/completions" in question


def test_with_keys_the_question_has_one_that_is_read_without_being_shown() -> None:
    site = replace(SITE, keys_file="/home/ops/keys of us.json")
    question, _document = of(site, "curl")
    assert after(question, "-H")[-1] == "authorization: Bearer $KEY"
    assert of(site, "read") == [["read", "-rsp", "API key: ", "KEY"]]
    copy, _made, back = [
        after(words, "-a")[0] for words in of(site, "ansible") if words[1] == "inference-1"
    ]
    # quoted once more, since a module's arguments are split as a shell's are
    assert shlex.split(copy)[0] == "src=/home/ops/keys of us.json"
    assert shlex.split(back)[1] == "dest=/home/ops/keys of us.json"


def test_without_keys_none_is_asked_for_and_it_is_said_how_to_ask_for_some() -> None:
    assert not of(SITE, "read")
    question, _document = of(SITE, "curl")
    assert not [header for header in after(question, "-H") if "authorization" in header]
    assert any("deepseek_api_keys_file" in line for line in next_steps.lines(SITE))


def test_a_client_certificate_is_sent_where_the_gateway_asks_for_one() -> None:
    for words in of(replace(SITE, client_certificates=True), "curl"):
        assert after(words, "--cert") == ["client.pem"]
    assert not [words for words in of(SITE, "curl") if "--cert" in words]


def test_every_command_of_ansible_has_the_inventories_of_the_run() -> None:
    found = [*of(SITE, "ansible"), *of(SITE, "ansible-playbook")]
    assert len(found) == 7
    for words in found:
        assert after(words, "-i") == ["/home/ops/my site", "a,b"]


def test_the_playbooks_and_pages_that_are_named_exist() -> None:
    for words in of(SITE, "ansible-playbook"):
        book = words[-1].removeprefix("onprem.deepseek.")
        assert (ROOT / "playbooks" / f"{book}.yml").is_file()
    text = "\n".join(next_steps.lines(SITE))
    for page in ("index.md", "reference/api.md"):
        assert str(next_steps.DOCS / page) in text
        assert (next_steps.DOCS / page).is_file()


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inventory")
    site = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/site.yml").read_text())
    addresses = {"deepseek_zone_addresses": {"service": "192.0.2.1"}, "lab_octet": 112}
    groups = {"gateway": "g", "inference": "i", "storage": "s"}
    children = {group: {"hosts": {name: addresses}} for group, name in groups.items()}
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"vars": site, "children": children}}))
    return path


def shown(inventory: Path, *options: str) -> str:
    return passed(ROOT / "playbooks/next_steps.yml", *options, inventory=inventory).out


def test_commands_are_shown_as_they_are_and_nothing_is_changed(inventory: Path) -> None:
    said = shown(inventory)
    curl = [line for line in said.splitlines() if line.startswith("curl ")]
    assert json.loads(after(shlex.split(curl[0]), "-d")[0])["model"] == "tiny-onprem"
    assert "changed=0" in said


@pytest.mark.parametrize(
    "options",
    [("--check",), ("--limit", "gateway"), ("--tags", "gateway"), ("--skip-tags", "tls")],
    ids=lambda options: options[0],
)
def test_nothing_is_shown_of_a_rollout_that_was_not_whole(
    inventory: Path, options: tuple[str, ...]
) -> None:
    assert "curl" not in shown(inventory, *options)
