# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make docs/reference/variables.md of the code and the explanations in the example inventory.

    python tests/docs/variables.py --write

A unit test fails when the page is not what this makes.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/variables.md"
EXAMPLE = ROOT / "inventories/production.example/group_vars/all.yml"
# What excludes other variables of the example is there as a comment.
COMMENTED = re.compile(r"^  deepseek_\w+:", re.MULTILINE)
SITE_VARIABLE = re.compile(r"^(deepseek_\w+):", re.MULTILINE)
HEAD = """\
# Site variables

Made by `make docs` of role preflight's entry point `site` and `inventories/production.example`;
do not edit it. `ansible-doc -t role -e site onprem.deepseek.preflight` shows the same.

What more than one role must know. No other variable may begin with `deepseek_`: preflight reports
one that is missing, malformed or misspelt. Variables of a single role begin with its name:
`ansible-doc -t role onprem.deepseek.gateway`, or the role's README.

Each must be the same for all hosts, so set them in `group_vars/all.yml`. Paths are on the host
unless something else is said.

"""
OF_A_HOST = """
## Of each host

These are set for each host, in `host_vars` or in the inventory itself.

| variable | must be | |
|---|---|---|
| `deepseek_zone_addresses` | a mapping: the host's address in each of its zones | required |
| `deepseek_zone_addresses_ipv6` | the same for a second, IPv6 address | optional |
| `deepseek_workers` | of an inference host: a list of workers | optional |

A worker has a `name`, and may have `port`, `gpus` (UUIDs), `cpus` (such as `0-31`) and
`memory_max`.
Without the variable a host has one worker with all that the host has.
"""


@dataclass(frozen=True)
class Block:
    """Variables of the example that share an explanation."""

    heading: str
    text: str
    code: str

    @property
    def names(self) -> list[str]:
        return SITE_VARIABLE.findall(self.code)


def blocks(example: str) -> Iterator[Block]:
    """The paragraphs of the example inventory that set site variables."""
    heading = ""
    for paragraph in re.split(r"\n{2,}", example):
        if paragraph.startswith("#####"):
            heading = paragraph.strip("# ")
            continue
        lines = paragraph.splitlines()
        first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        # A variable in the middle may have a comment of its own.
        starts = [first]
        for number in range(first + 1, len(lines)):
            if lines[number].startswith("#") and not lines[number - 1].startswith("#"):
                starts.append(number)
        begins = [0, *starts[1:]]
        for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
            part = lines[begin:end]
            code = "\n".join(line for line in part if not line.startswith("#"))
            text = "\n".join(re.sub(r"^# ?", "", line) for line in part if line.startswith("#"))
            if shown := COMMENTED.search(text):
                text, code = text[: shown.start()].rstrip(), textwrap.dedent(text[shown.start() :])
            if SITE_VARIABLE.search(code):
                yield Block(heading, text, code)


def page(
    rules: dict[str, tuple[str, bool]], example: str, readers: Mapping[str, Sequence[str]]
) -> str:
    """The reference; *rules* has, by variable, what it must be and whether it must be set.

    *readers* has the roles that read it.
    """
    out = [HEAD, "| variable | must be | | read by |\n|---|---|---|---|\n"]
    for name, (rule, required) in rules.items():
        cell = rule.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
        link = f"[`{name}`](#{name})" if re.search(rf"\n(#   )?{name}:", example) else f"`{name}`"
        need = "required" if required else "optional"
        out.append(f"| {link} | {cell} | {need} | {', '.join(readers.get(name, ()))} |\n")
    before = ""
    for block in blocks(example):
        if block.heading != before:
            out.append(f"\n## {block.heading}\n")
            before = block.heading
        for name in block.names:
            out.append(f"\n### `{name}`\n")
        if block.text:
            out.append(f"\n{_prose(block.text)}\n")
        out.append(f"\n```yaml\n{block.code}\n```\n")
    out.append(OF_A_HOST)
    return "".join(out)


def _prose(text: str) -> str:
    """Comments as Markdown: lines that are indented are a list."""
    lines = []
    for line in text.splitlines():
        item = re.match(r"  (\w+)  +(.+)", line)
        lines.append(f"- `{item[1]}`: {item[2]}" if item else line)
    joined = "\n".join(lines).replace("<", "&lt;").replace(">", "&gt;")
    # The first item of a list needs an empty line before it, and so does what follows the last one.
    joined = re.sub(r"^(?!- )(.+)\n(?=- )", r"\1\n\n", joined, flags=re.MULTILINE)
    return re.sub(r"^(- .+)\n(?!- )(?=.)", r"\1\n\n", joined, flags=re.MULTILINE)


def made() -> str:
    """The page as it must be, of the code of this checkout."""
    sys.path.insert(0, str(ROOT / ".cache/collections"))
    from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports
    from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.site_variables import (
        variables,
    )

    rules = {name: (variable.rule, variable.required) for name, variable in variables().items()}
    exported = role_exports.of_roles()
    readers = {
        name: [role for role, said in exported.items() if name in said.get("site_variables", ())]
        for name in rules
    }
    return page(rules, EXAMPLE.read_text(encoding="utf-8"), readers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write:
        PAGE.write_text(made(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != made():
        print(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).name} --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
