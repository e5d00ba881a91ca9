# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages that are linked or named exist, and those of docs/ can be reached from its index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
# made by tools, or not of this repository
FOREIGN = {"__pycache__", "build", "dist", "artifacts"}
TEXT = {".md", ".py", ".yml", ".yaml", ".j2", ".toml", ".cfg", ".in", ".txt", ".sh", ""}
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
NAMED = re.compile(r"(?<![\w./-])docs/[\w./-]+\.(?:md|json)")
# what stands in a page as code and is a file of this repository, or the name of one
FILE = re.compile(
    r"`((?:benchmarks|docs|inventories|molecule|playbooks|plugins|roles|serving|tests)/[\w./-]+)`"
)
SHORT = re.compile(r"`([a-z]\w*\.(?:yml|py))`")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        hidden = path.name.startswith(".") and path.name not in (".github", ".config", ".ci")
        if path.is_symlink() or hidden or path.name in FOREIGN or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from files(path)
        elif path.suffix in TEXT:
            yield path


def prose(path: Path) -> str:
    """Text of a page without its code."""
    return CODE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """The names under which the headings of a page can be linked, as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def broken(path: Path) -> Iterator[str]:
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _hash, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        if not page.exists():
            yield f"{path.relative_to(ROOT)}: {target}: there is no such file"
        elif anchor and page.suffix == ".md" and anchor not in anchors(page):
            yield f"{path.relative_to(ROOT)}: {target}: there is no such heading"


# played by other playbooks
INNER = {"tls_reload.yml"}
PAGES = [path for path in files(ROOT) if path.suffix == ".md"]


def test_every_relative_link_leads_somewhere() -> None:
    assert PAGES
    assert [problem for path in PAGES for problem in broken(path)] == []


def test_every_page_that_is_named_in_a_file_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files(ROOT)
        if path != Path(__file__)
        for name in NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not (ROOT / name).exists()
    ]
    assert missing == []


def test_every_page_of_docs_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    pending = [DOCS / "index.md"]
    while pending:
        page = pending.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in LINK.findall(prose(page)):
            linked = (page.parent / target.partition("#")[0]).resolve()
            if linked.suffix == ".md" and linked.is_relative_to(DOCS) and linked.exists():
                pending.append(linked)
    assert sorted(set(DOCS.rglob("*.md")) - reached) == []


def test_every_file_that_a_page_names_exists() -> None:
    names = {path.name for path in files(ROOT)}
    missing = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        missing += [
            f"{page.relative_to(ROOT)}: {name}"
            for name in FILE.findall(text)
            if not (ROOT / name).exists()
        ]
        missing += [
            f"{page.relative_to(ROOT)}: {name}" for name in SHORT.findall(text) if name not in names
        ]
    assert missing == []


def test_the_readme_names_every_playbook_role_and_module() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tables = {
        "playbooks": {path.name for path in (ROOT / "playbooks").glob("*.yml")} - INNER,
        "roles": {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()},
        "modules": {path.stem for path in (ROOT / "plugins/modules").glob("*.py")},
    }
    for heading, there in tables.items():
        section = text.split(f"\n## {heading.capitalize()}\n")[1].split("\n## ")[0]
        rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")]
        column = 2 if heading == "modules" else 1
        named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row[column])]
        assert sorted(named) == sorted(there), heading


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a](nowhere.md)", "there is no such file"),
        ("[a](page.md#not-there)", "there is no such heading"),
        ("[a](page.md#what-is-there), `[a](code.md)`, [b](https://example.org/x.md)", None),
        ("```\n[a](nowhere.md)\n```", None),
    ],
)
def test_what_a_link_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str | None
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(f"# `What` is there\n\n{text}\n")
    found = list(broken(tmp_path / "page.md"))
    assert [problem.rpartition(": ")[2] for problem in found] == ([said] if said else [])
