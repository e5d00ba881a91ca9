# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.serving.lockfile import (LockError, Requirement, applicable, parse)

LOCK = """\
# a comment
anyio==4.16.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:cc
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:dd
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:ee
hf-xet==1.8.0 ; platform_machine == 'x86_64' or platform_machine == 'aarch64' \\
    --hash=sha256:ff
"""


def pins(python: str, machine: str = "x86_64") -> list[str]:
    return [requirement.pin for requirement in applicable(LOCK, python, machine)]


def test_each_python_version_gets_its_own_pin() -> None:
    assert pins("3.11") == ["anyio==4.16.0", "numpy==2.4.6", "hf-xet==1.8.0"]
    assert pins("3.13") == ["anyio==4.16.0", "numpy==2.5.5", "hf-xet==1.8.0"]


def test_machine_type_is_that_of_the_target() -> None:
    assert "hf-xet==1.8.0" not in pins("3.13", "riscv64")


def test_all_hashes_are_kept_and_the_marker_is_dropped() -> None:
    first, second, *_rest = applicable(LOCK, "3.11", "x86_64")
    assert first.text() == "anyio==4.16.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert second.text() == "numpy==2.4.6 \\\n    --hash=sha256:cc\n"


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2 --hash=sha256:aa",
        "numpy==2.4.6",
        "-r other.txt",
        "--index-url https://x",
        "numpy @ https://x --hash=sha256:aa",
    ],
)
def test_what_is_not_pinned_with_a_hash_is_refused(line: str) -> None:
    with pytest.raises(LockError, match="not a requirement pinned"):
        parse(line)


def test_a_broken_marker_names_the_requirement() -> None:
    with pytest.raises(LockError, match=r"numpy==2\.4\.6: the marker"):
        applicable("numpy==2.4.6 ; python is new --hash=sha256:aa", "3.11", "x86_64")


@pytest.mark.parametrize("python", ["3", "311", "3.11.2", "py3.11", ""])
def test_a_python_version_that_is_none_is_refused(python: str) -> None:
    with pytest.raises(LockError, match="must look like"):
        applicable(LOCK, python, "x86_64")


NAMES = st.from_regex(r"\A[a-z][a-z0-9-]{0,10}==[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z")
HASHES = st.lists(st.from_regex(r"\A--hash=sha256:[0-9a-f]{64}\Z"), min_size=1, max_size=4).map(
    tuple
)


@given(st.lists(st.builds(Requirement, NAMES, st.just(""), HASHES), max_size=8))
def test_what_is_written_reads_back_the_same(requirements: list[Requirement]) -> None:
    assert parse("".join(requirement.text() for requirement in requirements)) == requirements


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + LOCK,
        LOCK.replace("\n", "\r\n"),
        LOCK.replace("    --hash", "\t--hash").replace("==4.16.0 ", "==4.16.0\t"),
        "\ufeff" + LOCK.replace("    ", "\t").replace("\n", "\r\n"),
    ],
    ids=["bom", "crlf", "tabs", "all of them"],
)
def test_a_lock_is_taken_as_editors_elsewhere_leave_it(text: str) -> None:
    assert parse(text) == parse(LOCK)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le"])
def test_a_lock_in_another_encoding_is_named(codec: str) -> None:
    read_as_utf8 = LOCK.encode(codec).decode("utf-8", "surrogateescape")
    with pytest.raises(LockError, match="save it as UTF-8"):
        parse(read_as_utf8)
