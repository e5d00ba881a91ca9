# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commit messages are refused, and which commits are asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def commits() -> ModuleType:
    return load_script(ROOT / "tests/commits.py", "commits")


@pytest.mark.parametrize(
    "message",
    [
        "feat(store): pull engines by key\n\nA host with a new kind of GPU pulled nothing.\n",
        "fix: bring the queue's limit back\n\nSince 0.1.0 it was ignored.\n\nFixes: #12\n",
        "docs(how-to): say how a host is replaced\n",
        "chore: update the lock file\n",
        "refactor(store)!: name the agent\n\nThe units have other names.\n\n# a comment of git\n",
        "Merge branch 'main' into part/x\n",
        "fixup! feat(store): pull engines by key\n",
        f"feat(serving/http): need a key\n\nWhy.\n# {'-' * 24} >8 {'-' * 24}\ndiff wip\n",
    ],
)
def test_a_message_is_taken(commits: ModuleType, message: str) -> None:
    assert list(commits.problems(message)) == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Pull engines by key\n\nWhy.\n", "the subject is not type"),
        ("", "the subject is not type"),
        ("feature: pull engines\n\nWhy.\n", "type 'feature' is none of"),
        ("fix: pull engines.\n\nWhy.\n", "full stop"),
        ("fix: pulled engines\n\nWhy.\n", "not with a verb in the imperative"),
        ("fix: the pull of engines\n\nWhy.\n", "not with a verb in the imperative"),
        ("test: WIP faults\n\nWhy.\n", "the subject says 'WIP'"),
        ("style: Lines\n\nWhy.\n", "the subject says 'Lines'"),
        ("fix: satisfy mypy\n\nWhy.\n", "the subject says 'mypy'"),
        ("fix: pull engines\nWhy.\n", "the line after the subject is not empty"),
        ("fix: pull engines\n", "there is no body"),
        ("fix: pull engines\n\n# Please enter the message\n", "there is no body"),
        ("fix: pull engines\n\nSigned-off-by: A <a@example.org>\n", "there is no body"),
        (f"docs: say {'x' * 100}\n", "more than 100"),
    ],
)
def test_a_message_is_refused(commits: ModuleType, message: str, said: str) -> None:
    found = list(commits.problems(message))
    assert len(found) == 1
    assert said in found[0]


def git(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    for who in ("AUTHOR", "COMMITTER"):
        environment[f"GIT_{who}_NAME"] = "a"
        environment[f"GIT_{who}_EMAIL"] = "a@example.org"
    done = subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    for message in ("Lines", "base of the rule", "docs: say it", "fix: Lines"):
        git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", message)
    git(tmp_path, "checkout", "--quiet", "-b", "other", "HEAD~1")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "perf: pull\n\nTwice.")
    git(tmp_path, "checkout", "--quiet", "main")
    git(tmp_path, "merge", "--quiet", "--no-ff", "--message", "Merge it", "other")
    return tmp_path


def test_commits_after_the_base_are_judged_and_no_merge(
    commits: ModuleType,
    history: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = commits.commits("HEAD~3", history)
    assert sorted(commit.message.split("\n")[0] for commit in found) == [
        "docs: say it",
        "fix: Lines",
        "perf: pull",
    ]
    assert commits.report(found) == 1
    said = capsys.readouterr().err
    assert said.count("fix: Lines") == 2
    assert "docs: say it" not in said


def test_a_base_that_is_not_there_is_named(commits: ModuleType, history: Path) -> None:
    with pytest.raises(ValueError, match="bad revision"):
        commits.commits("0000000", history)


def test_the_hook_judges_a_file(
    commits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text("fix: pull engines\n")
    assert commits.main(["--message", str(message)]) == 1
    assert "there is no body" in capsys.readouterr().err
    message.write_text("docs: say it\n")
    assert commits.main(["--message", str(message)]) == 0


def test_the_recorded_base(commits: ModuleType, tmp_path: Path) -> None:
    assert commits.recorded_base()
    (tmp_path / "base").write_text("# why\n\nabc123 the last one before\n")
    assert commits.recorded_base(tmp_path / "base") == "abc123"
    (tmp_path / "base").write_text("# why\n")
    with pytest.raises(ValueError, match="names no commit"):
        commits.recorded_base(tmp_path / "base")


def test_a_clone_without_the_history_of_the_base_is_told_from_a_wrong_base(
    commits: ModuleType, history: Path, tmp_path: Path
) -> None:
    assert not commits.is_shallow(history)
    git(tmp_path, "clone", "--quiet", "--depth=1", history.as_uri(), "part")
    assert commits.is_shallow(tmp_path / "part")
