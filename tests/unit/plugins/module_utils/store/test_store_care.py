# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A storage host that looks after itself: real nginx, aria2 and TLS, and files that rot."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from release_host import LARGE, PIECE, overwrite, plan, signer, tree
from source_hosts import Site, same, site
from stored_engines import Engines, engines

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    ArtifactError,
    release_path,
    retired_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import run_command
from ansible_collections.onprem.deepseek.plugins.module_utils.store.agent import (
    Settings,
    StoreAgent,
    _listed,
    carry_out,
    main,
    read_state,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.lock import store_lock
from ansible_collections.onprem.deepseek.plugins.module_utils.store.placement import holders
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import https_fetcher
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import list_releases

__all__ = ["engines", "plan", "signer", "site"]
PREFIX = "deepseek_store_"


class Host:
    """The storage host ``here``, whose peers are the three sources of the site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.said: list[str] = []
        root = site.root
        (root / "release.pub").write_bytes(site.signer.pem)
        self.settings = Settings(
            name="storage-4",
            store=str(root / "here"),
            public_key=str(root / "release.pub"),
            ca=str(root / "ca.pem"),
            certificate=str(root / "host.pem"),
            private_key=str(root / "host.key"),
            sources=[f"https://127.0.0.1:{port}" for port in site.ports],
            hosts=["storage-4"],
            state=str(root / "state"),
            metrics=str(root / "metrics"),
        )

    def does(self, command: str, now: float = 1000.0) -> int:
        fetch = https_fetcher(self.site.credentials(), 2)
        return carry_out(
            StoreAgent(self.settings, fetch, run_command, self.said.append), command, now
        )

    def metric(self, name: str) -> float:
        """The value, or the sum over all labels."""
        texts = [file.read_text() for file in Path(self.settings.metrics).glob("*.prom")]
        lines = [line for text in texts for line in text.splitlines()]
        values = [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith((f"{PREFIX}{name} ", f"{PREFIX}{name}{{"))
        ]
        assert values, f"no metric {name}"
        return sum(values)

    @property
    def weights(self) -> Path:
        return self.site.weights(self.site.root / "here")


@pytest.fixture
def host(site: Site) -> Host:
    return Host(site)


def test_a_host_that_has_nothing_pulls_everything(host: Host) -> None:
    assert host.does("sync") == 0
    assert same(host.site)
    assert host.metric("releases") == 1
    assert host.metric("releases_missing") == 0
    assert host.metric("replicas") == 4
    assert host.metric("source_up") == 3
    assert host.metric("last_good_sync_timestamp_seconds") == 1000
    assert host.metric("releases_fit") > 1
    fetched = host.metric("fetched_bytes_total")
    assert fetched > 200_000
    host.said.clear()
    assert host.does("sync", 2000.0) == 0
    assert host.said == []
    assert host.metric("fetched_bytes_total") == fetched
    assert host.metric("last_good_sync_timestamp_seconds") == 2000


def test_what_is_missing_or_short_comes_back_from_those_that_are_left(host: Host) -> None:
    host.does("sync")
    host.site.stop(0)
    host.site.stop(1)
    host.weights.unlink()
    assert host.does("sync") == 0
    assert same(host.site)
    assert host.metric("replicas") == 2
    assert host.metric("source_up") == 1
    shutil.rmtree(host.settings.store)
    host.site.stop(2)
    assert host.does("sync", 2000.0) == 1
    assert "none can be reached" in host.said[-1]
    assert host.metric("releases") == 0
    assert host.metric("last_good_sync_timestamp_seconds") == 1000


def test_only_what_is_placed_here_and_was_not_retired_is_pulled(host: Host) -> None:
    others = [f"storage-{number}" for number in range(20)]
    assert host.settings.name not in holders("tiny/1.0.0", others)
    host.settings = replace(host.settings, hosts=others)
    assert host.does("sync") == 0
    assert tree(host.settings.store) == {}
    host.settings = replace(host.settings, hosts=[host.settings.name])
    record = Path(retired_path(host.settings.store, "tiny", "1.0.0"))
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert host.does("sync") == 0
    assert len(tree(host.settings.store)) == 1


def test_a_source_cannot_offer_what_was_not_signed(host: Host) -> None:
    for number in range(3):
        directory = host.site.source(number) / "releases" / "tiny"
        (directory / "9.9.9.json").write_bytes((directory / "1.0.0.json").read_bytes())
        (directory / "9.9.9.json.sig").write_bytes((directory / "1.0.0.json.sig").read_bytes())
        (directory / "-strange name.json").write_text("{}")
    assert host.does("sync") == 1
    assert "not '9.9.9'" in " ".join(host.said)
    assert list_releases(host.settings.store) == [("tiny", "1.0.0")]
    assert host.metric("releases_missing") == 1
    assert host.metric("last_good_sync_timestamp_seconds") == 0


@pytest.mark.parametrize("text", [b"", b"<html>", b"{}", b"[1]", b'[{"type": "file"}]', b"\xff"])
def test_a_list_that_is_none_is_refused(text: bytes) -> None:
    if text == b"{}":
        assert _listed(text, "file") == set()
        return
    with pytest.raises(ArtifactError, match="no list"):
        _listed(text, "file")


def test_a_busy_store_is_left_for_the_next_run(host: Host) -> None:
    Path(host.settings.store).mkdir()
    with store_lock(host.settings.store):
        assert host.does("sync") == 0
    assert "another publish or pull" in host.said[0]
    assert host.metric("last_good_sync_timestamp_seconds") == 0
    assert host.metric("releases_missing") == 1


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_scrub_finds_rot_counts_it_and_repairs_it(host: Host) -> None:
    host.does("sync")
    assert host.does("scrub") == 0
    size = host.metric("scrubbed_bytes_total")
    assert size > LARGE
    assert host.metric("bad_pieces_total") == 0
    overwrite(host.weights, PIECE + 1000, b"rotten")
    assert host.does("sync") == 0
    assert not same(host.site)
    host.said.clear()
    assert host.does("scrub", 2000.0) == 0
    assert "model.safetensors: sha256" in host.said[0]
    assert same(host.site)
    assert host.metric("bad_pieces_total") == 1
    assert host.metric("unrepaired") == 0
    assert host.metric("scrubbed_bytes_total") == 2 * size
    assert host.metric("last_good_scrub_timestamp_seconds") == 2000


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_what_is_rotten_everywhere_is_reported_and_not_served(host: Host) -> None:
    host.does("sync")
    host.does("scrub")
    for number in range(3):
        overwrite(host.site.weights(host.site.source(number)), 1000, b"rotten")
    for offset in (1000, PIECE + 1000):
        overwrite(host.weights, offset, b"rotten")
    assert host.does("scrub", 2000.0) == 1
    assert host.metric("bad_pieces_total") == 2
    assert host.metric("unrepaired") == 1
    assert host.metric("last_good_scrub_timestamp_seconds") == 1000
    assert not host.weights.exists()
    assert "No source has all pieces right" in " ".join(host.said)


def test_a_release_that_was_changed_is_pulled_again(host: Host) -> None:
    host.does("sync")
    path = Path(release_path(host.settings.store, "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    assert host.does("scrub") == 0
    assert same(host.site)
    assert host.metric("bad_pieces_total") == 1


@pytest.mark.parametrize("name", ["engine.plan", "manifest.json"])
def test_engines_are_pulled_and_repaired_too(engines: Engines, name: str) -> None:
    host = Host(engines.site)
    assert host.does("sync") == 0
    assert engines.here.is_dir()
    assert same(engines.site)
    overwrite(engines.here / name, 0, b"#")
    assert host.does("scrub") == 0
    assert same(engines.site)
    assert host.metric("bad_pieces_total") == 1


def test_an_engine_that_is_not_what_its_name_says_is_not_taken(engines: Engines) -> None:
    host = Host(engines.site)
    for number in range(3):
        directory = engines.source(number)
        if directory.is_dir():
            shutil.copytree(directory, directory.parent / ("e" * 64))
    assert host.does("sync") == 0
    assert "engine tiny/eeeeeeeeeeee: not taken" in " ".join(host.said)
    assert sorted(os.listdir(engines.here.parent)) == [engines.key]


def test_the_command_that_systemd_runs(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    path = host.site.root / "store.json"
    path.write_text(json.dumps(asdict(host.settings)))
    assert main(["sync", str(path)]) == 0
    assert capsys.readouterr().out == "release tiny/1.0.0: pulled or repaired\n"
    assert same(host.site)
    assert (
        oct(os.stat(host.site.root / "metrics" / "deepseek_store_sync.prom").st_mode)[-3:] == "644"
    )


def test_counters_that_cannot_be_read_begin_again(tmp_path: Path) -> None:
    for text in ("", "[]", '{"bad": "x"}'):
        (tmp_path / "state").write_text(text)
        assert read_state(str(tmp_path / "state")) == {}
