# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that commit messages follow Conventional Commits, as CONTRIBUTING.md describes them.

    python tests/commits.py                   the commits after that of tests/commits.base
    python tests/commits.py --base REV        the commits after REV
    python tests/commits.py --message FILE    one message, as git's hook commit-msg calls it

Commits before the base stay as they are: they were written before the rule. Merges are not judged.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE_FILE = ROOT / "tests/commits.base"
TYPES = (
    "build", "chore", "ci", "docs", "feat", "fix", "perf", "refactor", "revert", "style", "test",
)  # fmt: skip
# Their subject may say everything.
WITHOUT_BODY = ("chore", "docs")
LONGEST_SUBJECT = 100
SUBJECT = re.compile(r"(?P<type>[a-z]+)(?:\((?P<scope>[a-z0-9_./-]+)\))?!?: (?P<what>\S.*)")
# They say nothing of the change, or only by which tool it was asked for.
BANNED = ("lines", "mypy", "wip")
BANNED_WORD = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
# A sentence in the imperative begins with none of these.
PAST = re.compile(r"(?:\w+(?:ed|ing)|was|were|is|are|this|the|some)\b", re.IGNORECASE)
# imperatives that end as a participle does
IMPERATIVE = frozenset(
    ["bring", "embed", "exceed", "feed", "need", "proceed", "ring", "seed", "shed", "speed"]
)
# what git writes below the message, and shows in the editor
SCISSORS = re.compile(r"^# -+ >8 -+$", re.MULTILINE)
TRAILER = re.compile(r"[A-Z][\w-]+: \S.*")
MERGE = re.compile(r"Merge (branch|commit|pull request|remote-tracking branch|tag)\b|Merge the ")


@dataclass(frozen=True)
class Commit:
    """A commit, by the name under which it is reported."""

    name: str
    message: str


def problems(message: str) -> Iterator[str]:
    """Everything that is wrong with a message."""
    text = SCISSORS.split(message)[0]
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    rest = lines[1:]
    if MERGE.match(subject) or subject.startswith(("fixup! ", "squash! ", 'Revert "')):
        return
    match = SUBJECT.fullmatch(subject)
    if not match:
        yield f"the subject is not type(scope): what it does, with a type of {', '.join(TYPES)}"
        return
    if match["type"] not in TYPES:
        yield f"type {match['type']!r} is none of {', '.join(TYPES)}"
    if len(subject) > LONGEST_SUBJECT:
        yield f"the subject has {len(subject)} characters, more than {LONGEST_SUBJECT}"
    if subject.endswith("."):
        yield "the subject ends with a full stop"
    first = match["what"].split()[0]
    if PAST.fullmatch(first) and first.lower() not in IMPERATIVE:
        yield f"the subject begins with {first!r}, not with a verb in the imperative"
    banned = BANNED_WORD.search(match["what"])
    if banned:
        yield f"the subject says {banned[0]!r}: say what changes for whom"
    if rest and rest[0]:
        yield "the line after the subject is not empty"
    body = [line for line in rest if line and not TRAILER.fullmatch(line)]
    if not body and match["type"] not in WITHOUT_BODY:
        yield "there is no body: say why"


def git(root: Path, *arguments: str) -> str:
    """What git says; ValueError if it fails."""
    program = shutil.which("git") or "git"
    done = subprocess.run(
        [program, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return done.stdout


def commits(base: str, root: Path = ROOT) -> list[Commit]:
    """The commits after *base*, oldest first, without merges; ValueError if there is no base."""
    log = ("log", "--no-merges", "--reverse", "--format=%h%n%B%x00", f"{base}..HEAD", "--")
    found = []
    for record in git(root, *log).split("\0"):
        name, _newline, message = record.lstrip("\n").partition("\n")
        if name:
            found.append(Commit(name, message))
    return found


def is_shallow(root: Path = ROOT) -> bool:
    """Whether the clone has only the latest part of the history."""
    try:
        return git(root, "rev-parse", "--is-shallow-repository").strip() == "true"
    except ValueError:
        return False


def recorded_base(path: Path = BASE_FILE) -> str:
    """The commit after which the rule holds: the first word of the file that is no comment."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            return line.split()[0]
    raise ValueError(f"{path} names no commit")


def report(judged: Sequence[Commit]) -> int:
    """Print what is wrong with which commit; the exit status."""
    wrong = 0
    for commit in judged:
        for problem in problems(commit.message):
            subject = commit.message.partition("\n")[0]
            print(f"{commit.name}: {problem}\n    {subject}", file=sys.stderr)
            wrong += 1
    if wrong:
        print("CONTRIBUTING.md, section Commits, has the rule and examples.", file=sys.stderr)
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", metavar="REV", help="default: what tests/commits.base names")
    parser.add_argument("--message", type=Path, metavar="FILE", help="check one message")
    options = parser.parse_args(arguments)
    if options.message:
        text = options.message.read_text(encoding="utf-8")
        return report([Commit("this commit", text)])
    if not (ROOT / ".git").exists():
        print("no git here: commits are not checked")
        return 0
    base = options.base or recorded_base()
    try:
        return report(commits(base))
    except ValueError as error:
        if is_shallow():
            print(f"this clone has no history down to {base}: commits are not checked")
            return 0
        print(
            f"commits after {base} cannot be listed: {error}. Fetch the whole history, or correct "
            f"{BASE_FILE.relative_to(ROOT)}.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
