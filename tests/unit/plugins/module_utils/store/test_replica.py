# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish on one host, pull on others: real nginx and aria2 on the loopback interface, real TLS."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_host import LARGE, PIECE, SMALL, Signer, overwrite, signer, tree
from source_hosts import Site, same, site

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    FileHash,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    ArtifactError,
    release_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import (
    Completed,
    run_command,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store import aria2
from ansible_collections.onprem.deepseek.plugins.module_utils.store.aria2 import shares_of
from ansible_collections.onprem.deepseek.plugins.module_utils.store.lock import store_lock
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    ReplicaError,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import (
    Sources,
    https_fetcher,
    replicas,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
)

__all__ = ["signer", "site"]


@given(
    sizes=st.dictionaries(st.text(min_size=1), st.integers(0, 10**13), min_size=1),
    number=st.integers(1, 5),
)
def test_files_are_shared_out_evenly_and_none_is_lost(sizes: dict[str, int], number: int) -> None:
    files = {path: FileHash(size, "", ()) for path, size in sizes.items()}
    shares = shares_of(files, number)
    assert len(shares) <= number
    assert all(shares)
    assert sorted(path for share in shares for path in share) == sorted(files)
    totals = [sum(item.size for item in share.values()) for share in shares]
    assert max(totals) <= sum(totals) / number + max(sizes.values())


def test_only_what_one_of_several_could_not_give_is_asked_for_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aria2, "worker_count", lambda jobs: min(jobs, 4))
    for number in range(3):
        overwrite(site.weights(site.root / f"source{number}"), 1000, b"rotten")
    asked: list[list[str]] = []

    def noting(command: Sequence[str]) -> Completed:
        [metalink] = [word for word in command if word.startswith("--metalink-file=")]
        text = Path(metalink.partition("=")[2]).read_text()
        asked.append(re.findall('file name="([^"]+)"', text))
        return run_command(command)

    with pytest.raises(ReplicaError, match="No source has all pieces right"):
        site.pull(run=noting)
    of_checkpoint = [paths for paths in asked if "decoder.onnx" not in paths]
    first = [paths for paths in of_checkpoint if "model.safetensors" not in paths]
    assert first
    assert of_checkpoint.count(["model.safetensors"]) == 4


def test_pull_and_pull_again(site: Site) -> None:
    assert site.pull(check_mode=True).changed
    assert not (site.root / "here").exists()
    pulled = site.pull()
    assert pulled.changed
    assert pulled.complete
    assert [item.state for item in pulled.artifacts] == ["pulled", "pulled"]
    assert same(site)
    assert {
        oct(item.stat().st_mode & 0o777)
        for item in (site.root / "here").rglob("*.*")
        if item.is_file()
    } == {"0o444", "0o600"}
    for number in (0, 1, 2):
        site.stop(number)
    again = site.pull()
    assert not again.changed
    assert [item.state for item in again.artifacts] == ["complete", "complete"]


def test_what_is_repaired_may_be_written_by_its_owner_without_more_privileges(site: Site) -> None:
    site.pull()
    overwrite(site.weights(site.root / "here"), 1000, b"rotten")
    modes: list[int] = []

    def looking(command: Sequence[str]) -> Completed:
        (weights,) = (site.root / "here").rglob("*.safetensors")
        modes.append(weights.stat().st_mode & 0o777)
        return run_command(command)

    assert site.pull(run=looking).complete
    assert modes == [0o644]
    assert same(site)


def test_who_else_has_a_release(site: Site) -> None:
    site.stop(0)
    path = Path(release_path(str(site.source(1)), "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    fetch = https_fetcher(site.credentials(), 2)
    sources = Sources(site.request().sources, fetch)
    found = inspect_replica(site.request(store=str(site.source(2))))
    urls = [f"https://127.0.0.1:{port}" for port in site.ports]
    assert replicas(sources, "tiny", "1.0.0", found.digest) == [urls[2]]
    assert "cannot be reached" in sources.problems[urls[0]]
    assert "expected" in sources.problems[urls[1]]


def test_only_the_graph(site: Site) -> None:
    site.pull(kinds=["graph"])
    assert not (site.root / "here" / "checkpoint").exists()
    assert not site.pull(kinds=["graph"]).changed
    assert site.pull(check_mode=True).changed


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_sources_that_are_down_empty_or_corrupt_do_not_matter(site: Site) -> None:
    site.stop(0)
    overwrite(site.weights(site.root / "source1"), PIECE + 1000, b"rotten")
    pulled = site.pull()
    assert same(site)
    assert "cannot be reached" in pulled.source_problems[f"https://127.0.0.1:{site.ports[0]}"]
    shutil.rmtree(site.root / "here")
    shutil.rmtree(site.root / "source1" / "graph")
    pulled = site.pull()
    assert "404" in pulled.source_problems[f"https://127.0.0.1:{site.ports[1]}"]
    assert same(site)


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_a_piece_that_is_corrupt_everywhere_is_never_accepted(site: Site) -> None:
    for number in range(3):
        overwrite(site.weights(site.root / f"source{number}"), PIECE + 1000, b"rotten")
    with pytest.raises(ReplicaError, match="No source has all pieces right"):
        site.pull()
    assert list_releases(str(site.root / "here")) == []
    assert not site.weights(site.root / "here").exists()
    shutil.copy(site.root / "import" / "model.safetensors", site.weights(site.root / "source2"))
    assert site.pull().changed
    assert tree(site.root / "here") == tree(site.root / "source2")


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_a_damaged_copy_is_repaired_and_only_the_bad_piece_is_fetched(site: Site) -> None:
    site.pull()
    for number in range(3):
        (site.root / f"access{number}.log").write_text("")
    overwrite(site.weights(site.root / "here"), PIECE + 1000, b"rotten")
    assert not site.pull(full=False).changed
    assert site.pull(check_mode=True).changed
    repaired = site.pull()
    assert [item.state for item in repaired.artifacts] == ["repaired", "complete"]
    assert [problem.kind for problem in repaired.artifacts[0].repaired] == ["sha256"]
    assert same(site)
    sent = 0
    for number in range(3):
        lines = (site.root / f"access{number}.log").read_text().splitlines()
        sent += sum(
            int(line.split('"')[2].split()[1]) for line in lines if "model.safetensors" in line
        )
    assert 0 < sent <= LARGE - PIECE + 4096


def test_missing_truncated_extra_and_writable_files_are_repaired(site: Site) -> None:
    site.pull()
    graph = site.root / "here" / "graph" / "tiny" / site.release.graphs["fp32"]
    (graph / "decoder.onnx").unlink()
    (graph / "empty").unlink()
    (graph / "extra").mkdir()
    (graph / "extra" / "evil").symlink_to("/etc/passwd")
    weights = site.weights(site.root / "here")
    os.truncate(weights, 1000)
    for name in ("manifest.json", "pieces.meta4", "model.sig"):
        os.truncate(weights.parent / name, 10)
    assert [item.state for item in site.pull().artifacts] == ["repaired", "repaired"]
    assert same(site)
    assert not (graph / "extra").exists()
    for number in (0, 1, 2):
        site.stop(number)
    weights.chmod(0o666)
    (weights.parent / "more").write_text("x")
    assert site.pull().artifacts[0].state == "repaired"
    assert same(site)


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_an_interrupted_pull_is_resumed(site: Site) -> None:
    part = Path(f"{site.weights(site.root / 'here').parent}.part")
    part.mkdir(parents=True)
    shutil.copy(site.root / "import" / "model.safetensors", part / "model.safetensors")
    os.truncate(part / "model.safetensors", PIECE)
    (part / "junk").write_text("x")
    site.pull()
    assert same(site)


@pytest.mark.parametrize("site", [LARGE], indirect=True)
@pytest.mark.parametrize("note", [b"", b"\0\1cut off"])
def test_a_note_that_aria2_could_not_finish_stops_no_later_pull(site: Site, note: bytes) -> None:
    """A full disk leaves half of a file, and a note of its progress that cannot be read."""
    site.pull()
    weights = site.weights(site.root / "here")
    part = weights.parent.rename(f"{weights.parent}.part")
    half = part / weights.name
    half.chmod(0o644)
    os.truncate(half, PIECE + 1000)
    Path(f"{half}.aria2").write_bytes(note)
    if note:
        # Of one source, so that nothing else is tried in this pull.
        with pytest.raises(ReplicaError, match="kept for the next try"):
            site.pull(sources=[f"https://127.0.0.1:{site.ports[0]}"])
    assert site.pull().complete
    assert same(site)


def test_a_tampered_release_is_refused_and_another_source_is_used(site: Site) -> None:
    name = "releases/tiny/1.0.0.json"
    path = site.root / "source0" / name
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    pulled = site.pull()
    assert "does not verify" in pulled.source_problems[f"https://127.0.0.1:{site.ports[0]}"]
    shutil.rmtree(site.root / "here")
    for number in (1, 2):
        shutil.copy(path, site.root / f"source{number}" / name)
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull()
    assert not (site.root / "here" / "releases").exists()


def test_a_release_of_another_site_is_refused(site: Site) -> None:
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull(public_key=Signer().pem)


@pytest.mark.parametrize("name", ["manifest.json", "pieces.meta4", "model.sig"])
def test_tampered_metadata_is_taken_from_another_source_or_refused(site: Site, name: str) -> None:
    directory = site.weights(Path()).parent
    for number in range(3):
        overwrite(site.root / f"source{number}" / directory / name, 5, b"#")
        if number == 1:
            assert site.pull().changed
            shutil.rmtree(site.root / "here")
    with pytest.raises(ReplicaError, match=name):
        site.pull()


def test_a_release_that_was_tampered_with_here_is_replaced(site: Site) -> None:
    site.pull()
    path = site.root / "here" / "releases" / "tiny" / "1.0.0.json"
    overwrite(path, 3, b"#")
    assert inspect_replica(site.request()).signature == "invalid"
    assert site.pull().changed
    assert same(site)


def test_a_pinned_release_must_be_that_one(site: Site) -> None:
    with pytest.raises(ReplicaError, match="signed twice"):
        site.pull(release_digest="0" * 64)
    digest = site.pull().digest
    assert not site.pull(release_digest=digest).changed
    with pytest.raises(ReplicaError, match="signed twice"):
        site.pull(release_digest="0" * 64)


def test_a_certificate_of_another_authority_gets_nothing(site: Site) -> None:
    with pytest.raises(ReplicaError, match="No source"):
        site.pull("stranger")


def test_no_source_and_no_copy(site: Site) -> None:
    with pytest.raises(ReplicaError, match="no sources are configured"):
        site.pull(sources=[])
    with pytest.raises(ReplicaError, match="not an https or file URL"):
        site.pull(sources=["http://127.0.0.1"])
    with pytest.raises(ReplicaError, match="404"):
        site.pull(version="2.0.0")


def test_room_is_checked_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=SMALL))
    with pytest.raises(ReplicaError, match="bytes free"):
        site.pull()
    assert not list((site.root / "here").rglob("*.part"))


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        store_lock(str(tmp_path)),
        pytest.raises(ReplicaError, match="holds"),
        store_lock(str(tmp_path), 0.3),
    ):
        pass
    with store_lock(str(tmp_path), 0):
        pass


@pytest.mark.parametrize(
    ("model", "version"), [("../x", "1"), ("m", "../1"), ("", "1"), ("m", "a/b")]
)
def test_names_cannot_leave_the_store(model: str, version: str) -> None:
    with pytest.raises(ArtifactError):
        Request("/store", model, version, b"")
    with pytest.raises(ArtifactError):
        Plan("/store", model, version, "/c", b"")
