# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of the standard flows in docs/reference/zones.md, of what the roles export.

    python tests/docs/flows.py --write

A unit test fails when the table is not what this makes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/zones.md"
HEAD = "| from | to | | for | role |\n|---|---|---|---|---|\n"
EXPRESSION = re.compile(r"\{\{ (\w+) \}\}")
OTHERWISE = re.compile(r"\{\{ (\w+) \| default\((\w+)\) \}\}")


def row(role: str, flow: Mapping[str, Any]) -> str:
    ends = [", ".join(flow[side]) for side in ("from", "to")]
    protocol = "any" if flow["protocol"] == "any" else flow["protocol"].upper()
    what = f"{protocol} {_ports(flow.get('ports', []))}".strip()
    return f"| {' | '.join([*ends, what, flow['why'], f'`{role}`'])} |\n"


def _ports(ports: Any) -> str:
    """As people read them: numbers, variables, and the variables that an expression is made of."""
    if isinstance(ports, str):
        names = dict.fromkeys(re.findall(r"\bdeepseek_\w+", ports))
        return f"of {' and '.join(f'`{name}`' for name in names)}"
    read = [OTHERWISE.sub(r"`\1`, otherwise `\2`", str(port)) for port in ports]
    return ", ".join(EXPRESSION.sub(r"`\1`", port) for port in read)


def made(page: str) -> str:
    """The page with the table as it must be, of the code of this checkout."""
    sys.path.insert(0, str(ROOT / ".cache/collections"))
    from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports

    before, _head, rest = page.partition(HEAD)
    after = re.sub(r"\A(?:\|.*\n)*", "", rest)
    return before + HEAD + "".join(row(*one) for one in role_exports.flows()) + after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table")
    page = PAGE.read_text(encoding="utf-8")
    if parser.parse_args().write:
        PAGE.write_text(made(page), encoding="utf-8")
    elif page != made(page):
        print(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).name} --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
