# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a release of the checkout: `make release VERSION=1.2.0`.

The version is written where it stands (galaxy.yml, the serving package), the changelog made of its
fragments, the collection built, judged by galaxy-importer, and its reference made. Then all of it
is committed and tagged. Nothing is pushed or uploaded. A failure before the commit leaves the
changes in the working tree; docs/how-to/release.md says how to remove them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DIST = ".cache/dist"
SEMANTIC = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-(rc|beta|alpha)(\d+))?")
# Where the version stands, and the only line that has it. Python spells a pre-release otherwise.
PLACES = {
    "galaxy.yml": re.compile(r"^(version: )(\S+)()$", re.MULTILINE),
    "serving/pyproject.toml": re.compile(r'^(version = ")([^"]+)(")$', re.MULTILINE),
    "serving/src/deepseek_serving/__init__.py": re.compile(
        r'^(__version__ = ")([^"]+)(")$', re.MULTILINE
    ),
}


class ReleaseError(Exception):
    """The release cannot be made; the message says why and what to do."""


def python_version(version: str) -> str:
    """A semantic version as Python packages write it: 0.1.0-rc1 is 0.1.0rc1."""
    short = {"alpha": "a", "beta": "b", "rc": "rc"}
    match = SEMANTIC.fullmatch(version)
    if not match:
        raise ReleaseError(f"{version!r} is no version: write 1.2.0, or 1.2.0-rc1")
    base = ".".join(match.groups()[:3])
    return f"{base}{short[match[4]]}{match[5]}" if match[4] else base


def order(version: str) -> tuple[int, int, int, int, int]:
    """What versions are compared by: a pre-release comes before its release."""
    match = SEMANTIC.fullmatch(version)
    if not match:
        raise ReleaseError(f"{version!r} is no version: write 1.2.0, or 1.2.0-rc1")
    stage = ["alpha", "beta", "rc", None].index(match[4])
    return int(match[1]), int(match[2]), int(match[3]), stage, int(match[5] or 0)


def spelling(place: str, version: str) -> str:
    return version if place == "galaxy.yml" else python_version(version)


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version in each of its places."""
    found = {}
    for place, pattern in PLACES.items():
        matches = pattern.findall((root / place).read_text(encoding="utf-8"))
        if len(matches) != 1:
            raise ReleaseError(f"{place} states the version {len(matches)} times, not once")
        found[place] = matches[0][1]
    return found


def write_versions(version: str, root: Path = ROOT) -> None:
    for place, pattern in PLACES.items():
        path = root / place
        text = path.read_text(encoding="utf-8")
        path.write_text(pattern.sub(rf"\g<1>{spelling(place, version)}\g<3>", text), "utf-8")


def released(root: Path = ROOT) -> list[str]:
    """The versions that the changelog has."""
    changelog = yaml.safe_load((root / "changelogs/changelog.yaml").read_text(encoding="utf-8"))
    return list(changelog.get("releases") or {})


def problems(version: str, root: Path = ROOT) -> Iterator[str]:
    """Everything that keeps the release from being made."""
    order(version)
    newer = [other for other in released(root) if order(other) >= order(version)]
    if newer:
        yield f"{newer[-1]} is released already: take a later version"
    if git("status", "--porcelain", root=root):
        yield "the working tree has changes: commit or remove them"
    if git("tag", "--list", f"v{version}", root=root):
        yield f"the tag v{version} exists"
    fragments = root / "changelogs/fragments"
    # What a pre-release had is in the changelog already.
    candidates = [other for other in released(root) if order(other)[:3] == order(version)[:3]]
    if not candidates and not any(fragments.glob("*.y*ml")):
        yield "changelogs/fragments has no fragment: nothing would be released"


def git(*arguments: str, root: Path = ROOT) -> str:
    return run(shutil.which("git") or "git", *arguments, root=root, capture=True)


def run(*command: str, root: Path = ROOT, capture: bool = False) -> str:
    """A program that must succeed; its output, if it is captured."""
    done = subprocess.run(
        command, cwd=root, text=True, check=False, stdout=subprocess.PIPE if capture else None
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command[:3])} ended with status {done.returncode}")
    return (done.stdout or "").strip()


def tool(name: str) -> str:
    """A program of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def build(version: str) -> Path:
    """Build the collection and have galaxy-importer judge it."""
    directory = ROOT / DIST
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    run(tool("ansible-galaxy"), "collection", "build", "--output-path", DIST)
    tarball = directory / f"onprem-deepseek-{version}.tar.gz"
    os.environ["GALAXY_IMPORTER_CONFIG"] = str(ROOT / "tests/galaxy-importer.cfg")
    run(sys.executable, "-m", "galaxy_importer.main", str(tarball), root=directory)
    if not (directory / "importer_result.json").exists():
        raise ReleaseError("galaxy-importer refuses the collection: its messages are above")
    return tarball


def release(version: str) -> None:
    found = list(problems(version))
    if found:
        raise ReleaseError("; ".join(found))
    write_versions(version)
    run(tool("antsibull-changelog"), "release", "--version", version)
    git("add", "--all")
    tarball = build(version)
    run(sys.executable, "tests/docs/build.py")
    body = "Version, changelog and its fragments, made by make release."
    git("commit", "--quiet", "--message", f"chore(release): {version}", "--message", body)
    git("tag", "--annotate", f"v{version}", "--message", f"onprem.deepseek {version}")
    print(f"{tarball.relative_to(ROOT)}, tag v{version}: look at them, then push both.")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    try:
        release(parser.parse_args(arguments).version)
    except ReleaseError as error:
        print(f"No release: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
