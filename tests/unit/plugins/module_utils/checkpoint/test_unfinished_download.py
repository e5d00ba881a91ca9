# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a download leaves that has not come to its end: pointers, parts, runs of zeros."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_checkpoint import JSON_NAMES, problems, shard

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    weights as checkpoint_weights,
)

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7031645\n"


@pytest.mark.parametrize(
    "name",
    [*JSON_NAMES, "model.safetensors.index.json", "model-00002-of-00002.safetensors", "x.txt"],
)
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(
    directory: Path, name: str
) -> None:
    (directory / name).write_text(POINTER)
    found = {item.file: item for item in checkpoint.inspect(str(directory)).problems}
    assert list(found) == [name]
    assert "git-lfs pointer" in found[name].problem
    assert "git lfs pull" in found[name].remedy


@pytest.mark.parametrize(
    "name",
    [
        "model-00003-of-00003.safetensors.aria2",
        "model.safetensors.part",
        "model-00001-of-00002.safetensors.incomplete",
        "Unconfirmed 12345.crdownload",
        "tokenizer.json.lock",
        "deep/model.safetensors.PARTIAL",
        ".cache/huggingface/download/abc.incomplete",
        ".model.safetensors.aria2",
    ],
)
def test_what_a_download_leaves_while_it_runs_is_refused(directory: Path, name: str) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(b"x")
    assert "download is not finished" in problems(directory)[name]


def test_what_a_finished_download_leaves_is_not(directory: Path) -> None:
    hidden = directory / ".cache" / "huggingface" / "download"
    hidden.mkdir(parents=True)
    (hidden / "config.json.lock").write_bytes(b"")
    (hidden / "config.json.metadata").write_text("x")
    assert problems(directory) == {}


def run_of_zeros(directory: Path, before: int, zeros: int) -> None:
    """One tensor of 5 MiB, with zeros in it that were written."""
    size = 5 * 2**20
    data = shard({"model.w": size, "other": 9})
    start = len(data) - size - 9
    body = b"\x01" * before + bytes(zeros) + b"\x01" * (size - before - zeros) + b"\x01" * 9
    (directory / "model-00001-of-00002.safetensors").write_bytes(data[:start] + body)
    index = directory / "model.safetensors.index.json"
    names = {"model.w": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("before", [0, 1, 2**19, 2**19 + 1, 2**20 - 1, 3_000_001, 4 * 2**20])
def test_a_part_that_was_never_downloaded_is_found_wherever_it_begins(
    directory: Path, before: int
) -> None:
    run_of_zeros(directory, before, 2**20)
    (found,) = checkpoint.inspect(str(directory)).problems
    assert "tensor model.w has over 1048576 zeros in a row" in found.problem
    assert "model_release_zero_tensors" in found.remedy
    for accepted in (["model.w"], ["model.*"]):
        assert checkpoint.inspect(str(directory), zero_tensors=accepted).problems == []


def test_less_than_that_is_weights(directory: Path) -> None:
    run_of_zeros(directory, 700_000, 2**20 - 1)
    assert problems(directory) == {}


@given(before=st.integers(0, 3 * 2**20), zeros=st.integers(2**20 - 2, 2**20 + 2))
@settings(max_examples=20, deadline=None)
def test_any_run_of_zeros_is_found_if_and_only_if_it_is_long(before: int, zeros: int) -> None:
    body = b"\x01" * before + bytes(zeros) + b"\x01" * 100
    found = checkpoint_weights._zeros(io.BytesIO(body), 0, len(body))
    assert found == (before if zeros >= 2**20 else None)


def test_space_that_was_reserved_and_never_written_is_found_without_reading(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of_zeros(directory, 0, 0)
    path = directory / "model-00001-of-00002.safetensors"
    size = path.stat().st_size
    data = path.read_bytes()
    path.write_bytes(data[:8192])
    with path.open("r+b") as stream:
        stream.truncate(size)
        stream.seek(size - 100_000)
        stream.write(data[-100_000:])
    monkeypatch.setattr(checkpoint, "READ_LIMIT", 0)
    monkeypatch.setattr(checkpoint_weights, "_zeros", None)
    assert "zeros in a row" in problems(directory)[path.name]
