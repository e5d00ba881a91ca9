# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a key in a token costs: HAProxy against itself with its key in a file, in one run.

    python benchmarks/tls.py [--inventory DIR] [--host NAME] [--seconds 5] [--json FILE]

Needs a lab with a gateway (`make demo`) and runs there, beside the gateway, with one thread and one
client that makes handshakes one after the other. Medians of three rounds by turns. The last line is
the time from the order to exchange a certificate to the end of the first request that was answered
with it.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
ANSIBLE = str(Path(sys.prefix) / "bin" / "ansible")
# the modules that role host_tools has installed
PROGRAM = "env PYTHONPATH=/usr/local/lib/deepseek PYTHONDONTWRITEBYTECODE=1 python3"
UNITS = {
    "full handshakes": ("1/s", 0.9),
    "CPU of a full handshake": ("us", None),
    "resumed handshakes": ("1/s", 0.95),
    "requests over kept connections": ("1/s", 0.95),
}


def on_host(inventory: str, host: str, seconds: int) -> dict[str, Any]:
    """Run the other half on the gateway."""
    script = ROOT / "tests" / "bench" / "tls_host.py"
    arguments = {"executable": PROGRAM, "cmd": f"{script} {seconds}"}
    done = subprocess.run(
        [
            *(ANSIBLE, host, f"--inventory={inventory}", "--become"),
            *("--module-name=ansible.builtin.script", f"--args={json.dumps(arguments)}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # however Ansible shows what a program has printed, this survives
    found = re.search(r"measured:([A-Za-z0-9+/=]+):", done.stdout)
    if done.returncode or found is None:
        sys.exit(f"the measurement on {host} failed\n{done.stdout}{done.stderr}")
    measured: dict[str, Any] = json.loads(base64.b64decode(found[1]))
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description="Bench of TLS with the key in a token.")
    parser.add_argument("--inventory", default=str(ROOT / "inventories" / "lab"))
    parser.add_argument("--host", default="gateway-1")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured = on_host(options.inventory, options.host, options.seconds)
    exchange = measured.pop("exchange")
    table = Table("measure", "unit", "key in a token", "key in a file", "ratio", "goal")
    written: dict[str, Any] = {}
    for measure, kinds in measured.items():
        unit, goal = UNITS[measure]
        ratio = kinds["token"] / kinds["file"]
        table.add_row(
            measure,
            unit,
            f"{kinds['token']:.0f}",
            f"{kinds['file']:.0f}",
            f"{ratio:.2f}",
            "" if goal is None else f"{goal}",
        )
        written[measure] = {
            "value": kinds["token"],
            "unit": unit,
            "against": kinds["file"],
            "ratio": ratio,
            "goal": goal,
        }
    table.add_row("from order to first answer", "s", f"{exchange['median']:.3f}", "", "", "")
    written["from order to first answer"] = {"value": exchange["median"], "unit": "s"}
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
