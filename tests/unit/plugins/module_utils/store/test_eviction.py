# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make room in a cache: what goes, in which order, and what never goes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from release_host import SMALL, overwrite, signer, write_checkpoint
from source_hosts import Site, site

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import release_path
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import run_command
from ansible_collections.onprem.deepseek.plugins.module_utils.store.eviction import (
    Evictor,
    last_served,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    SPACE_RESERVE,
    ReplicaError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.replica import ensure_replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import https_fetcher
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
)

__all__ = ["signer", "site"]

VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")


@pytest.fixture
def many(site: Site) -> Site:
    """Four versions at one source, all of different bytes; three are here, 1.0.0 the oldest."""
    for version in VERSIONS[1:]:
        site.signer.graph = version.encode()
        directory = write_checkpoint(site.root / version, SMALL + int(version[0]))
        plan = Plan(str(site.source(0)), "tiny", version, str(directory), site.signer.pem)
        publish(plan, site.signer.tools())
    for number, version in enumerate(VERSIONS[:3]):
        assert site.pull(version=version).complete
        path = release_path(str(site.root / "here"), "tiny", version)
        os.utime(path, (1000.0 + number, 1000.0 + number))
    return site


@pytest.fixture
def disk(many: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A file system of which only so much is free, counted from now on."""
    here = many.root / "here"
    usage = shutil.disk_usage("/")

    def used() -> int:
        return sum(path.stat().st_size for path in here.rglob("*") if path.is_file())

    def leave(free: int) -> None:
        size = used() + free + SPACE_RESERVE
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=size - used()))

    return leave


def pull(site: Site, keep: tuple[str, ...] = (), version: str = "4.0.0") -> Evictor:
    here = str(site.root / "here")
    evictor = Evictor(here, site.signer.pem, [f"tiny/{item}" for item in keep])
    request, credentials = site.request(version=version), site.credentials()
    found = inspect_replica(request)
    fetch = https_fetcher(credentials, 2)
    done = ensure_replica(
        request, fetch, run_command, credentials, found, make_room=evictor.make_room
    )
    assert done.complete
    return evictor


def here(site: Site) -> list[str]:
    """The versions on this host, each of which must be whole."""
    found = [version for _model, version in list_releases(str(site.root / "here"))]
    assert all(inspect_replica(site.request(version=item)).complete for item in found)
    return found


def test_nothing_goes_while_there_is_room(many: Site, disk: Callable[[int], None]) -> None:
    disk(10 * SMALL)
    assert pull(many).evicted == []
    assert here(many) == list(VERSIONS)


def test_the_oldest_goes_first_and_no_more_than_is_needed(
    many: Site, disk: Callable[[int], None]
) -> None:
    disk(SMALL // 10)
    assert pull(many).evicted == ["tiny/1.0.0"]
    assert here(many) == ["2.0.0", "3.0.0", "4.0.0"]
    directories = list((many.root / "here" / "checkpoint" / "tiny").iterdir())
    assert len(directories) == 3


def test_what_is_in_use_stays(many: Site, disk: Callable[[int], None]) -> None:
    disk(SMALL // 10)
    assert pull(many, keep=("1.0.0", "2.0.0")).evicted == ["tiny/3.0.0"]
    assert here(many) == ["1.0.0", "2.0.0", "4.0.0"]


def test_a_pull_that_would_need_what_is_in_use_is_refused_and_nothing_is_lost(
    many: Site, disk: Callable[[int], None]
) -> None:
    disk(SMALL // 10)
    with pytest.raises(ReplicaError, match="bytes free"):
        pull(many, keep=VERSIONS)
    assert here(many) == ["1.0.0", "2.0.0", "3.0.0"]
    assert not list((many.root / "here").rglob("*.part"))


def test_what_went_can_be_pulled_again(many: Site, disk: Callable[[int], None]) -> None:
    disk(SMALL // 10)
    pull(many)
    assert pull(many, version="1.0.0").evicted == ["tiny/2.0.0"]
    assert here(many) == ["1.0.0", "3.0.0", "4.0.0"]


def test_what_is_left_of_other_pulls_goes_before_any_release(
    many: Site, disk: Callable[[int], None]
) -> None:
    directory = many.root / "here" / "checkpoint" / "tiny"
    for name in (f"{'a' * 64}.part", "b" * 64):
        (directory / name).mkdir()
        (directory / name / "model.safetensors").write_bytes(bytes(SMALL))
    disk(SMALL // 10)
    assert pull(many).evicted == []
    assert here(many) == list(VERSIONS)
    assert len(list(directory.iterdir())) == 4


def test_what_the_pulled_release_shares_with_an_old_one_stays(
    many: Site, disk: Callable[[int], None]
) -> None:
    """5.0.0 has the checkpoint of 1.0.0, which is the first to go, and a graph of its own."""
    many.signer.graph = bytes(SMALL)
    many.signer.versions = {"onnx": "2.0.0"}
    plan = Plan(str(many.source(0)), "tiny", "5.0.0", str(many.root / "import"), many.signer.pem)
    publish(plan, many.signer.tools())
    disk(SMALL // 2)
    assert pull(many, version="5.0.0").evicted == ["tiny/1.0.0", "tiny/2.0.0"]
    assert here(many) == ["3.0.0", "5.0.0"]


def test_a_release_that_cannot_be_judged_stays_with_all_that_it_might_name(
    many: Site, disk: Callable[[int], None]
) -> None:
    path = Path(release_path(str(many.root / "here"), "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    disk(SMALL // 10)
    with pytest.raises(ReplicaError, match="bytes free"):
        pull(many)
    assert len(list((many.root / "here" / "checkpoint" / "tiny").iterdir())) == 3


@pytest.mark.parametrize(
    ("releases", "last"),
    [([], []), (["a/1"], ["a/1"]), (["a/1", "a/2", "b/1"], ["a/2", "b/1"])],
)
def test_what_was_served_last_is_in_use(
    tmp_path: Path, releases: list[str], last: list[str]
) -> None:
    path = tmp_path / "served.json"
    assert last_served(str(path)) == []
    path.write_text(json.dumps({"releases": releases}))
    assert last_served(str(path)) == last


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"releases": 1}', '{"releases": [1]}'])
def test_nothing_goes_when_it_cannot_be_told_what_is_in_use(tmp_path: Path, text: str) -> None:
    path = tmp_path / "served.json"
    path.write_text(text)
    with pytest.raises(ReplicaError, match="does not say which releases"):
        last_served(str(path))
