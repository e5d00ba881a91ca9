# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The publisher's list of digests: how it is read, and what is not as it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    files as checkpoint_files,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)


def digests(directory: Path, line: str = "{digest}  {name}") -> str:
    return "".join(
        line.format(digest=hashlib.sha256(path.read_bytes()).hexdigest(), name=path.name) + "\n"
        for path in sorted(directory.iterdir())
    )


@pytest.mark.parametrize(
    "line",
    ["{digest}  {name}", "{digest} *{name}", "{digest}  ./{name}", "SHA256 ({name}) = {digest}"],
)
def test_a_list_of_digests_is_read_as_sha256sum_writes_it(
    directory: Path, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text("# by the publisher\n\n" + digests(directory, line))
    read = checkpoint_files.read_checksums(str(path))
    assert sorted(read) == sorted(item.name for item in directory.iterdir())
    assert checkpoint.inspect(str(directory), checksums=str(path)).problems == []
    assert list(checkpoint.checksum_problems(str(path), read)) == []


def test_every_file_that_is_not_as_the_publisher_says_is_named(
    directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(digests(directory))
    found = checkpoint_files.read_checksums(str(path))
    wrong = {**found, "config.json": "0" * 64, "tokenizer.json": "1" * 64, "more": "2" * 64}
    problems = list(checkpoint.checksum_problems(str(path), wrong))
    assert [problem.file for problem in problems] == ["config.json", "tokenizer.json"]
    assert f"its SHA-256 is {'0' * 64}, and {path} says {found['config.json']}" in str(problems[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no file"),
        ("abc  config.json\n", "line 1 is not"),
        (f"{'0' * 64}  a\n{'1' * 64}  ./a\n", "line 2 gives a another digest"),
        (f"{'0' * 64}  config.json\n", "has no digest of it"),
    ],
)
def test_a_list_that_says_too_little_is_refused(
    directory: Path, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(text)
    report = checkpoint.inspect(str(directory), checksums=str(path))
    assert any(says in problem.problem for problem in report.problems)


def test_a_list_that_cannot_be_read_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        report = checkpoint.inspect(str(directory), checksums=str(tmp_path / name))
        assert [problem.file for problem in report.problems] == [str(tmp_path / name)]


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        ("utf-8-sig", lambda text: text),
        ("utf-16", lambda text: text),
        ("utf-16", lambda text: text.replace("\n", "\r\n")),
        ("utf-8", lambda text: text.replace("\n", "\r\n")),
        ("utf-8", lambda text: text.replace("  ", "\t")),
        ("utf-8", lambda text: text.replace("\n", " \t\n")),
        ("utf-8", lambda text: text.upper().replace("MODEL", "model").rstrip("\n")),
    ],
    ids=["bom", "utf-16", "utf-16 and crlf", "crlf", "tab", "trailing blanks", "upper case"],
)
def test_a_list_of_digests_is_taken_as_editors_elsewhere_leave_it(
    directory: Path, tmp_path: Path, encoding: str, change: Callable[[str], str]
) -> None:
    name = "model-00001-of-00002.safetensors"
    digest = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    path = tmp_path / "SHA256SUMS"
    text = change(f"{digest}  {name}\n")
    path.write_bytes(text.encode(encoding))
    assert list(checkpoint_files.read_checksums(str(path)).values()) == [digest]


def test_a_name_in_a_list_of_digests_may_hold_what_python_takes_for_the_end_of_a_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(
        f"{'0' * 64}  a\u2028b\x0cc\n{'1' * 64}  d\u0085\n", encoding="utf-8", newline=""
    )
    assert list(checkpoint_files.read_checksums(str(path))) == ["a\u2028b\x0cc", "d\u0085"]
