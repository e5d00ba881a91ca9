# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From packages to a site that apt takes them from, by the modules that playbooks call."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from small_bundles import MODULE_UTILS, PUBLIC, bytes_of, deb, sign, wheel

from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.debian import (
    AptDirectory,
    Suite,
    write_index,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import run_command
from ansible_collections.onprem.deepseek.plugins.modules import (
    bundle,
    bundle_import,
    bundle_packages,
)

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a module in this process, as on a host, and return its result."""
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)

    def run(module: Any, check_mode: bool = False, **arguments: object) -> dict[str, Any]:
        arguments["_ansible_check_mode"] = check_mode
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def tarball(directory: Path, time: int) -> None:
    directory.mkdir(exist_ok=True)
    with tarfile.open(directory / "onprem-deepseek-0.1.0.tar.gz", "w:gz") as archive:
        for name in ("README.md", "MANIFEST.json"):
            data = json.dumps({"collection_info": {"version": "0.1.0"}}).encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uname = len(data), time, "somebody"
            archive.addfile(entry, io.BytesIO(data))


def test_packages_are_carried_from_one_network_to_another(call: Call, tmp_path: Path) -> None:
    archive, medium, site = tmp_path / "archive", tmp_path / "medium", tmp_path / "site"
    archive.mkdir()
    deb(archive, "wanted", depends="needed")
    deb(archive, "needed")
    write_index(run_command, str(archive), Suite("bookworm", ()), 0, "amd64")
    wheel(tmp_path / "wheels/3.11", "tiny", metadata="License-Expression: MIT\n")
    tarball(tmp_path / "collection", 1000)
    feed = {"id": "CVE-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "tiny"}}]}
    feed["affected"][0]["versions"] = ["1.0"]  # type: ignore[index]
    (tmp_path / "feed.json").write_text(json.dumps([feed]))
    (tmp_path / "key.pem").write_bytes(PUBLIC)

    packages = call(
        bundle_packages,
        directory=str(tmp_path / "apt"),
        work_dir=str(tmp_path / "work"),
        sources=[f"deb [trusted=yes] copy:{archive} ./"],
        suites=[{"name": "bookworm", "packages": ["wanted"]}],
    )
    assert (packages["changed"], packages["packages"]) == (True, ["needed", "wanted"])

    def make(check_mode: bool = False) -> dict[str, Any]:
        contents = [
            {"name": "apt-bookworm", "kind": "apt", "directory": str(tmp_path / "apt")},
            {"name": "wheels-none", "kind": "wheels", "directory": str(tmp_path / "wheels")},
            {"name": "collection", "kind": "collection", "directory": str(tmp_path / "collection")},
        ]
        contents[0].update(variant="bookworm", release="12")
        contents[0]["provides"] = packages["packages"]
        contents[1].update(variant="none", provides=["3.11"])  # type: ignore[arg-type]
        return call(
            bundle,
            check_mode,
            directory=str(medium),
            contents=contents,
            epoch=packages["epoch"],
            feed=str(tmp_path / "feed.json"),
            module_utils=str(MODULE_UTILS),
            public_key=str(tmp_path / "key.pem"),
        )

    made = make()
    assert (made["changed"], made["signed"], made["components"]) == (True, False, 3)
    assert (made["without_license"], made["vulnerabilities"]) == ([], ["CVE-1"])
    assert made["manifest"].encode() == (medium / "manifest.json").read_bytes()
    sign(medium)
    # built again, at another time
    tarball(tmp_path / "collection", 2000)
    before = bytes_of(medium)
    assert make(check_mode=True)["changed"] is False
    again = make()
    assert (again["changed"], again["signed"], again["serial"]) == (False, True, made["serial"])
    assert bytes_of(medium) == before

    def take(check_mode: bool = False, **need: object) -> dict[str, Any]:
        return call(
            bundle_import,
            check_mode,
            directory=str(medium),
            public_key=str(tmp_path / "key.pem"),
            site_dir=str(site),
            keyring_dir=str(tmp_path / "keyring"),
            needs=[{"where": "gw-1", "kind": "apt", "variant": "bookworm", **need}],
        )

    refused = take(variant="trixie")
    assert refused["failed"]
    assert refused["faults"] == [
        {
            "where": "gw-1",
            "what": "the bundle has no packages for trixie (it has bookworm)",
            "remedy": "Make a bundle with it "
            "(offline_bundle_debian_releases, offline_bundle_flavours)",
        }
    ]
    assert take(check_mode=True)["changed"]
    assert not site.exists()
    imported = take(provides=["wanted"])
    assert imported["changed"], imported
    assert take()["changed"] is False
    assert imported["contents"]["collection"]["files"] == 1

    # as a host has it
    served = f"{site}/current/apt-bookworm/bookworm"
    source = f"deb [signed-by={site}/current/index-key.asc] file:{served} ./\n"
    host = AptDirectory(run_command, str(tmp_path / "host"), source, "amd64")
    host.update()
    assert "Inst wanted" in host.apt("install", "--simulate", "--yes", "wanted").stdout


@pytest.mark.parametrize("content", [b"no tarball", gzip.compress(b"no archive"), b""])
def test_what_is_no_tarball_is_named(content: bytes, call: Call, tmp_path: Path) -> None:
    (tmp_path / "onprem.tar.gz").write_bytes(content)
    result = call(
        bundle,
        directory=str(tmp_path / "medium"),
        contents=[{"name": "collection", "kind": "collection", "directory": str(tmp_path)}],
        epoch=0,
        module_utils=str(MODULE_UTILS),
    )
    assert result["msg"].startswith("onprem.tar.gz is no tarball of a collection")
    assert not os.path.exists(tmp_path / "medium")
