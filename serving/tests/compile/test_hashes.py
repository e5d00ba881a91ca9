"""Hashes of files are remembered while the files are as they were."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from engines import settled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import json_values

from deepseek_serving.compile.hashes import HashCache


def hashed(folder: Path, path: Path, *, force: bool = False) -> tuple[str, int]:
    """The hash, and the bytes that had to be read for it."""
    cache = HashCache(folder / "hashes.json", force=force)
    found = cache.sha256(path)
    cache.save()
    return found, cache.hashed_bytes


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert hashed(tmp_path, path) == (expected, 3)
    assert hashed(tmp_path, path) == (expected, 0)
    assert hashed(tmp_path, path, force=True) == (expected, 3)
    # of the same size, also when it was renamed into place
    settled(path, b"two", age=9)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"two").hexdigest(), 3)
    stamp = path.stat().st_mtime_ns
    other = settled(tmp_path / "other", b"six")
    os.utime(other, ns=(stamp, stamp))
    other.replace(path)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"six").hexdigest(), 3)
    assert hashed(tmp_path, path)[1] == 0


def test_force_sees_what_no_time_stamp_shows(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    hashed(tmp_path, path)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert hashed(tmp_path, path) == (hashlib.sha256(b"one").hexdigest(), 0)
    assert hashed(tmp_path, path, force=True) == (hashlib.sha256(b"two").hexdigest(), 3)


@pytest.mark.parametrize("age", [0, -3600])
def test_a_file_too_young_is_not_remembered(tmp_path: Path, age: float) -> None:
    path = settled(tmp_path / "file", b"one", age)
    assert hashed(tmp_path, path)[1] == 3
    assert hashed(tmp_path, path)[1] == 3
    assert not (tmp_path / "hashes.json").exists()


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    first, second = (settled(tmp_path / name, b"x") for name in ("first", "second"))
    hashed(tmp_path, first)
    first.unlink()
    hashed(tmp_path, second)
    assert list(json.loads((tmp_path / "hashes.json").read_text())) == [str(second.resolve())]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_damaged_cache_is_empty(tmp_path: Path, data: bytes) -> None:
    path = settled(tmp_path / "file", b"one")
    (tmp_path / "hashes.json").write_bytes(data)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"one").hexdigest(), 3)
    assert hashed(tmp_path, path)[1] == 0


@given(entry=json_values)
def test_a_damaged_entry_is_none(tmp_path_factory: pytest.TempPathFactory, entry: Any) -> None:
    folder = tmp_path_factory.mktemp("hashes")
    path = settled(folder / "file", b"one")
    (folder / "hashes.json").write_text(json.dumps({str(path): entry}))
    assert hashed(folder, path)[0] == hashlib.sha256(b"one").hexdigest()
