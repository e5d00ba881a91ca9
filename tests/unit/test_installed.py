# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user has the tarball, an inventory of their own, and an environment with what is declared."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from installed import AS_ROOT, NOBODY, ROOT, Installed

NAME = "onprem.deepseek"
# It is for machines that have collection awx.awx, too.
FOR_AWX = "awx_configure"
BOOKS = sorted({path.stem for path in (ROOT / "playbooks").glob("*.yml")} - {FOR_AWX})
ZONES = ("management", "service", "inference", "storage")
# What a user has no use for is not there; what is, is for users or read by playbooks.
TOP = {
    *("CONTRIBUTING.md", "FILES.json", "LICENSE", "MANIFEST.json", "README.md", "README.zh-CN.md"),
    "SECURITY.md",
    *("awx", "changelogs", "docs", "inventories", "meta", "playbooks", "plugins", "roles"),
    *("execution-environment.yml", "serving"),
}
SERVING = {"README.md", "pyproject.toml", "src"}
LOCK = re.compile(r"requirements-(build|((cuda|tensorrt-rtx)-)?py3\.\d+)\.txt")


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    # Not below pytest's directory, which another user may not enter.
    there = Installed(Path(tempfile.mkdtemp(prefix="installed-")))
    try:
        there.install()
        yield there
    finally:
        there.remove()


@pytest.fixture(scope="module")
def site(installed: Installed) -> Path:
    """The example, copied out of the collection, with one host, which is this machine."""
    inventory = installed.home / "site"
    shutil.copytree(
        installed.collection / "inventories/production.example",
        inventory,
        copy_function=shutil.copyfile,
    )
    host = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": str(installed.python),
        "deepseek_zone_addresses": dict.fromkeys(ZONES, "127.0.0.1"),
    }
    groups = ("gateway", "inference", "storage", "release")
    hosts = {"all": {"children": {group: {"hosts": {"box": host}} for group in groups}}}
    inventory.chmod(0o755)
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return inventory


def names(installed: Installed) -> list[str]:
    with tarfile.open(installed.tarball) as tarball:
        return tarball.getnames()


def test_the_tarball_has_what_users_need_and_nothing_of_a_checkout(installed: Installed) -> None:
    packed = names(installed)
    assert {name.split("/")[0] for name in packed} == TOP
    serving = {name.split("/")[1] for name in packed if name.startswith("serving/")}
    locks = {name for name in serving if LOCK.fullmatch(name)}
    assert serving - locks == SERVING
    assert locks == {
        path.name for path in (ROOT / "serving").glob("*.txt") if LOCK.fullmatch(path.name)
    }
    inventories = {name.split("/")[1] for name in packed if name.startswith("inventories/")}
    assert inventories == {"poc", "production.example", "stages"}


def test_every_playbook_is_found_by_its_name(installed: Installed, site: Path) -> None:
    books = [f"{NAME}.{book}" for book in BOOKS]
    done = installed.ansible("playbook", "--list-tasks", *books, cwd=site)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^playbook: (\S+)$", done.stdout, re.MULTILINE)
    assert len(found) == len(BOOKS), done.stdout


def test_everything_is_documented_as_installed(installed: Installed) -> None:
    done = installed.ansible("doc", "--metadata-dump", "--no-fail-on-errors", NAME)
    assert done.returncode == 0, done.stderr
    dump: dict[str, Any] = json.loads(done.stdout)["all"]
    for kind, directory in (
        *(("module", "modules"), ("filter", "filter"), ("lookup", "lookup")),
        ("callback", "callback"),
    ):
        files = (ROOT / "plugins" / directory).glob("[!_]*.py")
        found = {name: entry for name, entry in dump[kind].items() if name.startswith(NAME)}
        assert set(found) == {f"{NAME}.{path.stem}" for path in files}
        wrong = {name: entry for name, entry in found.items() if "error" in entry}
        assert wrong == {}
        assert all(entry["doc"]["short_description"] for entry in found.values())
    roles = {name: entry for name, entry in dump["role"].items() if name.startswith(NAME)}
    assert set(roles) == {f"{NAME}.{path.name}" for path in (ROOT / "roles").iterdir()}
    assert not [name for name, entry in roles.items() if "error" in entry]


def test_preflight_runs_for_a_user_who_may_write_at_home_alone(
    installed: Installed, site: Path
) -> None:
    before = installed.state()
    report = installed.home / "report"
    variables = {
        "preflight_report_dir": str(report),
        "preflight_network": "off",
        "deepseek_store_dir": str(installed.home / "store"),
    }
    done = installed.ansible(
        "playbook", f"{NAME}.preflight", "--extra-vars", json.dumps(variables), cwd=site
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    found = json.loads((report / "preflight.json").read_text())
    wrong = {check["name"]: check for check in found["checks"] if check["status"] == "failed"}
    # What is asked of the machine is not what is asked of the user.
    assert {"root", "groups"} <= set(wrong), said
    assert "MINUTES PER ROLE" in said, "the ansible.cfg of the example was not read"
    assert "[WARNING]" not in said, said
    assert installed.state() == before
    if AS_ROOT:
        assert report.stat().st_uid == NOBODY


def test_what_the_controller_lacks_is_said_before_anything_else(
    installed: Installed, site: Path
) -> None:
    kept = installed.directory / "kept"
    kept.mkdir()
    for path in installed.packages.glob("cryptography*"):
        path.rename(kept / path.name)
    try:
        done = installed.ansible("playbook", f"{NAME}.bundle_fetch", cwd=site)
    finally:
        for path in kept.iterdir():
            path.rename(installed.packages / path.name)
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert done.returncode == 2, said
    assert "the Python that runs Ansible has no cryptography" in said
    assert f"{installed.python} -m pip install 'cryptography>=" in said
    assert said.count("TASK [") == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root can own a file that the user cannot read")
def test_an_inventory_that_the_user_cannot_read_is_named(installed: Installed, site: Path) -> None:
    secret = installed.home / "secret.yml"
    secret.write_text("all: {hosts: {one: {}}}\n")
    secret.chmod(0o600)
    done = installed.ansible("playbook", "--inventory", str(secret), f"{NAME}.site")
    said = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert done.returncode == 2, said
    assert f"the inventory's {secret} may not be read by nobody" in said
    assert said.count("TASK [") == 1


def test_the_installed_collection_is_named_by_what_a_user_can_type() -> None:
    """Kind: a remedy names a file of a checkout, and the reader has an installed collection."""
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for directory in ("playbooks", "plugins", "roles", "inventories/production.example")
        for path in sorted((ROOT / directory).rglob("*"))
        if path.suffix in (".yml", ".py", ".j2", ".md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bplaybooks/\w+\.yml", line)
    ]
    assert wrong == []


def test_nothing_is_kept_beside_the_playbooks() -> None:
    """Kind: a default that is a directory of the collection, where a user may not write."""
    wrong = [
        str(path.relative_to(ROOT))
        for directory in ("playbooks", "roles", "inventories")
        for path in sorted((ROOT / directory).rglob("*.yml"))
        if "playbook_dir" in path.read_text(encoding="utf-8")
    ]
    assert wrong == []
