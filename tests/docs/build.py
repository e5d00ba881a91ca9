# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the reference of roles, modules and other plugins as HTML: `make docs`.

antsibull-docs wants literals as defaults of roles' options that are no strings, and ours may be
expressions (``default: "{{ deepseek_export | default(true) }}"``, equal to ``defaults/main.yml``,
which a test demands). So it reads a copy in which such a default is a sentence of the description.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / ".cache/docs"
COLLECTION = OUT / "collections/ansible_collections/onprem/deepseek"
CONFIGURATION = """\
project = "onprem.deepseek"
copyright = "onprem.deepseek maintainers"
html_theme = "alabaster"
html_show_sphinx = False
html_show_sourcelink = False
extensions = ["sphinx_antsibull_ext"]
"""
# labels of Ansible's own documentation, which would have to be fetched
ELSEWHERE = re.compile(
    r"undefined label: '(common_return_values|\w+_plugins|ansible_configuration_settings"
    r"|ansible_collections\.ansible\.\w+\.\w+)'"
)
TEXT = ("str", "path", "raw")


def options(entries: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every option of an entry point, and those inside of them."""
    for option in entries.values():
        yield option
        yield from options(option.get("options") or {})


def with_literals(specs: dict[str, Any]) -> dict[str, Any]:
    """Argument specs in which an expression is no default, but a part of the description."""
    for entry in specs["argument_specs"].values():
        for option in options(entry.get("options") or {}):
            default = option.get("default")
            if (
                isinstance(default, str)
                and "{{" in default
                and option.get("type", "str") not in TEXT
            ):
                del option["default"]
                text = option["description"]
                lines = [text] if isinstance(text, str) else list(text)
                option["description"] = [*lines, f"The default is V({_escaped(default)})."]
    return specs


def _escaped(text: str) -> str:
    """As the inside of V(...) wants it."""
    return text.replace("\\", "\\\\").replace(")", "\\)")


def copy() -> None:
    """The files of the collection that git knows, with specs that antsibull-docs can read."""
    shutil.rmtree(OUT, ignore_errors=True)
    git = shutil.which("git") or "git"
    listed = subprocess.run(
        [git, "ls-files", "-z", "galaxy.yml", "meta", "plugins", "roles", "README.md", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, COLLECTION / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    for path in COLLECTION.glob("roles/*/meta/argument_specs.yml"):
        specs = with_literals(yaml.safe_load(path.read_text(encoding="utf-8")))
        text = yaml.safe_dump(specs, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")


def run(*command: str, silent: bool = False) -> None:
    """A program of the environment that runs this, which must succeed."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION.parents[2]),
    }
    quiet = subprocess.DEVNULL if silent else None
    subprocess.run(command, cwd=OUT, env=environment, check=True, stdout=quiet, stderr=quiet)


def main() -> int:
    copy()
    (OUT / "rst").mkdir()
    (OUT / "rst/conf.py").write_text(CONFIGURATION, encoding="utf-8")
    run(
        "antsibull-docs",
        "collection",
        "--use-current",
        "--squash-hierarchy",
        "--fail-on-error",
        "--no-add-antsibull-docs-version",
        "--dest-dir=rst",
        "onprem.deepseek",
    )
    run("sphinx-build", "-w", "warnings", "-b", "html", "rst", "html", silent=True)
    warnings = (OUT / "warnings").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in warnings if line.strip() and not ELSEWHERE.search(line)]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(f"{(OUT / 'html/index.html').relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
