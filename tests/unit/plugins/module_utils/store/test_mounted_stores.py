# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pull from a store that is mounted, beside hosts."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from release_host import overwrite, signer
from source_hosts import Site, same, site

from ansible_collections.onprem.deepseek.plugins.module_utils.store import mounted as mounted_stores
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    ReplicaError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    list_releases,
)

__all__ = ["signer", "site"]


def mounted(site: Site, number: int = 1) -> str:
    return f"file://{site.source(number)}"


def test_a_mounted_store_is_a_source(site: Site) -> None:
    pulled = site.pull(sources=[mounted(site)])
    assert pulled.complete
    assert same(site)
    assert [item.state for item in pulled.artifacts] == ["pulled", "pulled"]
    status = site.weights(site.root / "here").stat()
    assert (status.st_nlink, status.st_mode & 0o777) == (1, 0o444)
    assert not site.pull(sources=[mounted(site)]).changed


def test_what_a_mount_has_wrong_comes_from_a_host_or_is_refused(site: Site) -> None:
    overwrite(site.weights(site.source(1)), 500, b"#")
    with pytest.raises(ReplicaError, match=r"Not as they were signed in .*model\.safetensors"):
        site.pull(sources=[mounted(site)])
    assert list_releases(str(site.root / "here")) == []
    assert not site.weights(site.root / "here").exists()
    pulled = site.pull(sources=[mounted(site), mounted(site, 2)])
    assert pulled.complete
    assert same(site)
    shutil.rmtree(site.root / "here")
    assert site.pull(sources=[mounted(site), f"https://127.0.0.1:{site.ports[0]}"]).complete
    assert same(site)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_in_a_mount_is_not_followed(site: Site, name: str) -> None:
    file = site.weights(site.source(1)).with_name(name)
    moved = site.root / "moved"
    file.rename(moved)
    file.symlink_to(moved)
    with pytest.raises(ReplicaError, match="Not as they were signed"):
        site.pull(sources=[mounted(site)])


def test_a_mounted_release_is_judged_by_its_signature(site: Site) -> None:
    path = site.source(1) / "releases" / "tiny" / "1.0.0.json"
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull(sources=[mounted(site)])


def test_a_mount_that_is_not_there_is_named(site: Site) -> None:
    (site.root / "empty").mkdir()
    for directory in (site.root / "empty", site.root / "nowhere"):
        with pytest.raises(ReplicaError, match="holds no store; is it mounted"):
            site.pull(sources=[f"file://{directory}"])
        pulled = site.pull(sources=[f"file://{directory}", mounted(site)])
        assert list(pulled.source_problems) == [f"file://{directory}"]
        shutil.rmtree(site.root / "here")
    with pytest.raises(ReplicaError, match=r"it has no releases/tiny/2\.0\.0\.json"):
        site.pull(sources=[mounted(site)], version="2.0.0")


@pytest.mark.parametrize("url", ["file://host/mnt", "file:mnt", "file://", "file:///mnt?x=1"])
def test_a_mount_must_be_an_absolute_path_here(site: Site, url: str) -> None:
    with pytest.raises(ReplicaError, match="absolute path of a directory"):
        site.pull(sources=[url])


def test_a_disk_that_becomes_full_meanwhile_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: str, target: str, _expected: object) -> bool:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mounted_stores, "_copied", full)
        with pytest.raises(ReplicaError, match=r"disk became full.*\.part.*kept for the next try"):
            site.pull(sources=[mounted(site)])
    assert site.pull(sources=[mounted(site)]).complete
    assert same(site)


def test_a_copy_that_rotted_is_repaired_from_a_mount(site: Site) -> None:
    site.pull()
    overwrite(site.weights(site.root / "here"), 500, b"#")
    repaired = site.pull(sources=[mounted(site)])
    assert [item.state for item in repaired.artifacts] == ["repaired", "complete"]
    assert same(site)
