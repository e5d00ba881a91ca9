# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the packet filter of 50 zones with 200 hosts each costs, and how soon six hosts enforce one.

    python benchmarks/zones.py [--json FILE] [--no-hosts]       as root

The filter of one host is generated as the role does it, and loaded into a network namespace;
packets come from another one. The peer in the same run, in turns, is a table with the same chains
that accepts everything and tracks connections, as any host with containers does. TCP is one stream.
UDP is datagrams of 64 bytes, which show the whole cost of the filter per packet. Rates are those of
the best windows of a round, since others use the machine, too, and of rounds the median. Both
sides have one processor, the same, so that where they run makes no difference.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = str(Path(sys.prefix) / "bin" / "ansible-playbook")
ZONES, HOSTS = 50, 200
ROUNDS, SECONDS = 8, 1.5
GOAL = 0.95
HOST = "host-0-0"
SOURCE, TARGET = "10.1.0.1", "10.0.0.1"
PORT = 8001
# The chains of the filter, and connection tracking, with nothing to look up.
EMPTY = """table inet deepseek_zones {
  chain input {
    type filter hook input priority -10; policy accept;
    ct state invalid drop
  }
  chain output {
    type filter hook output priority -10; policy accept;
    ct state invalid drop
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    ct state invalid drop
  }
}
"""
# Runs in the other namespace: what it is told to, and prints how much it was.
RECEIVE = """
import os, socket, sys
os.sched_setaffinity(0, {0})
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "udp":
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    print("ready", flush=True)
    sys.stdin.read()
else:
    server = socket.create_server((address, port))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 19)
    print("ready", flush=True)
    client, _ = server.accept()
    buffer = bytearray(1 << 20)
    while client.recv_into(buffer):
        pass
"""
# Prints what was sent, and the best rate over a window, in which nobody else had the processor.
SEND = """
import os, socket, sys, time
os.sched_setaffinity(0, {0})
kind, source, address, port, seconds = *sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
# small, so that what is sent in a window has been received, too
client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
client.bind((source, 0))
client.connect((address, port))
data, window = (b"x" * 64, 500) if kind == "udp" else (b"x" * (1 << 18), 16)
send, sent, clock, windows = client.send, 0, time.perf_counter, []
end = clock() + seconds
while (start := clock()) < end:
    size = 0
    for _ in range(window):
        size += send(data)
    windows.append(size / (clock() - start))
    sent += size
windows.sort()
print(sent, windows[-1 - len(windows) // 20])
"""


def site() -> dict[str, Any]:
    """A site of many zones: hosts at every second address, so that no two of them are one range."""
    names = [f"zone{number}" for number in range(ZONES)]
    zones = {name: {"networks": [f"10.{number}.0.0/22"]} for number, name in enumerate(names)}
    hosts = [
        [
            f"host-{zone}-{number}",
            [f"group{zone}"],
            {f"zone{zone}": f"10.{zone}.{(2 * number + 1) // 256}.{(2 * number + 1) % 256}"},
            {},
        ]
        for zone in range(ZONES)
        for number in range(HOSTS)
    ]
    flows = [
        {
            "from": f"zone{zone}/group{zone}",
            "to": f"zone{other}/group{other}",
            "protocol": protocol,
            "ports": [8000 + zone % 3, 9000 + other],
            "why": "bench",
        }
        for zone in range(ZONES)
        for other in sorted({0, (zone + 1) % ZONES, (zone + 7) % ZONES})
        for protocol in ("tcp", "udp")
    ]
    zones["management"] = {"networks": ["10.250.0.0/16"]}
    groups = [f"group{zone}" for zone in range(ZONES)]
    return {"zones": zones, "flows": flows, "hosts": hosts, "groups": groups}


def generate() -> tuple[str, dict[str, float]]:
    """The filter of one host, and what it is like."""
    sys.path.insert(0, str(ROOT / ".cache" / "collections"))
    place = "ansible_collections.onprem.deepseek.plugins.module_utils."
    start = time.perf_counter()
    matrix, problems = importlib.import_module(f"{place}zones").read(site())
    wrong = [str(problem) for problem in problems if "management" not in str(problem)]
    if wrong:
        sys.exit("\n".join(wrong[:5]))
    rules = importlib.import_module(f"{place}zone_rules")
    text = rules.ruleset(matrix, matrix.host(HOST))
    seconds = time.perf_counter() - start
    incoming, _outgoing = rules.rules(matrix, matrix.host(HOST))
    sources = sum(len(matrix.endpoints[rule.flow.source]) for rule in incoming)
    return text, {
        "generate_seconds": seconds,
        "bytes": float(len(text)),
        "rules": float(len(re.findall(r"^\t\t.*ct original .* accept", text, re.MULTILINE))),
        "pairs": float(sources),
    }


def run(*argv: str, data: str = "") -> str:
    """Run a command; a failure ends the benchmark with what it said."""
    done = subprocess.run(argv, input=data, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a link between them."""
    names = (f"bench-{os.getpid()}-source", f"bench-{os.getpid()}-target")
    for name in names:
        run("ip", "netns", "add", name)
    try:
        run(
            "ip", "-n", names[0], "link", "add", "bench0", "type", "veth",
            "peer", "name", "bench0", "netns", names[1],
        )  # fmt: skip
        for name, address in zip(names, (SOURCE, TARGET), strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/8", "dev", "bench0")
            for link in ("lo", "bench0"):
                run("ip", "-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names:
            run("ip", "netns", "delete", name)


def rate(kind: str, names: tuple[str, str]) -> float:
    """Bytes per second from one namespace to the other, nearly all of which came through."""
    inside = [["ip", "netns", "exec", name, sys.executable, "-c"] for name in names]
    receiver = subprocess.Popen(
        [*inside[1], RECEIVE, kind, TARGET, str(PORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if receiver.stdout is None or receiver.stdout.readline() != "ready\n":
        sys.exit("the receiver did not start")
    before = received(names[1])
    sent, best = run(*inside[0], SEND, kind, SOURCE, TARGET, str(PORT), str(SECONDS)).split()
    if kind == "udp" and received(names[1]) - before < int(sent) / 64 * 0.9:
        sys.exit(f"of {int(sent) / 64:.0f} datagrams {received(names[1]) - before} came through")
    receiver.communicate()
    return float(best)


def received(name: str) -> int:
    """Datagrams that came through the filter of a namespace, whether somebody read them or not."""
    text = run("ip", "netns", "exec", name, "cat", "/proc/net/snmp")
    keys, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Udp:"))
    counted = dict(zip(keys, map(int, values), strict=True))
    return counted["InDatagrams"] + counted["RcvbufErrors"]


def packets(filtered: str) -> dict[str, Any]:
    """Rates with the filter and with the empty one, in turns."""
    rulesets = {"empty": EMPTY, "zones": filtered}
    rates: dict[str, dict[str, list[float]]] = {
        kind: {label: [] for label in rulesets} for kind in ("tcp", "udp")
    }
    load_seconds = 0.0
    with namespaces() as names:
        for _round in range(ROUNDS):
            for label, text in rulesets.items():
                new = f"table inet deepseek_zones\ndelete table inet deepseek_zones\n{text}"
                start = time.perf_counter()
                run("ip", "netns", "exec", names[1], "nft", "-f", "-", data=new)
                if label == "zones":
                    load_seconds = time.perf_counter() - start
                for kind, found in rates.items():
                    found[label].append(rate(kind, names))
    medians = {
        kind: {label: statistics.median(values) for label, values in found.items()}
        for kind, found in rates.items()
    }
    return {"load_seconds": load_seconds, **medians}


def play(inventory: Path, playbook: str, *arguments: str) -> tuple[float, str]:
    """Run a playbook; gives the seconds, and what it printed."""
    start = time.monotonic()
    done = subprocess.run(
        [PLAYBOOK, f"--inventory={inventory}", playbook, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{playbook} failed\n{done.stdout}{done.stderr}")
    return time.monotonic() - start, done.stdout


def hosts() -> dict[str, float]:
    """Seconds in which six new hosts enforce the lab's zones, and again with nothing to change.

    ``reconnected`` is the longest time on one host from the load to a new SSH connection.
    """
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder) / "inventory"
        shutil.copytree(ROOT / "inventories" / "lab", inventory)
        text = re.sub("lab_octet: .*", "lab_octet: 109", (inventory / "hosts.yml").read_text())
        text = text.replace("lab_name: lab", "lab_name: bench_zones")
        (inventory / "hosts.yml").write_text(text)
        try:
            play(inventory, "tests/lab/create.yml")
            first, printed = play(inventory, "playbooks/zones_enforce.yml", "-v")
            second, _unused = play(inventory, "playbooks/zones_enforce.yml")
        finally:
            play(inventory, "tests/lab/destroy.yml")
    each = [float(value) for value in re.findall(r"^ +seconds: ([\d.]+)$", printed, re.MULTILINE)]
    return {"first": first, "second": second, "reconnected": max(each)}


def measures(
    size: dict[str, float], rates: dict[str, Any], lab: dict[str, float]
) -> dict[str, Any]:
    """Give the figures in the form that all benchmarks write."""
    found = {
        f"zones_{kind}": {
            "value": rates[kind]["zones"] / (64 if kind == "udp" else 1e9),
            "unit": "packets/s" if kind == "udp" else "GB/s",
            "against": rates[kind]["empty"] / (64 if kind == "udp" else 1e9),
            "ratio": rates[kind]["zones"] / rates[kind]["empty"],
            "goal": GOAL,
        }
        for kind in ("tcp", "udp")
    }
    found["zones_rules"] = {
        "value": size["rules"],
        "unit": "rules",
        "against": size["pairs"],
        "ratio": size["rules"] / size["pairs"],
        "goal": None,
    }
    for name, value in {
        "generate": size["generate_seconds"],
        "load": rates["load_seconds"],
        **{f"hosts_{name}": seconds for name, seconds in lab.items()},
    }.items():
        found[f"zones_{name}"] = {
            "value": value,
            "unit": "s",
            "against": None,
            "ratio": None,
            "goal": None,
        }
    return found


def show(figures: dict[str, Any], size: dict[str, float]) -> None:
    """Print the table."""
    table = Table(
        title=f"{ZONES} zones with {HOSTS} hosts each: {size['bytes'] / 1000:.0f} kB for one host"
    )
    for name in ("", "value", "unit", "empty, or pairs", "ratio", "goal"):
        table.add_column(name, justify="left" if name in ("", "unit") else "right")
    for name, figure in figures.items():
        numbers = [figure[key] for key in ("against", "ratio", "goal")]
        table.add_row(
            name.removeprefix("zones_"),
            f"{figure['value']:,.2f}",
            figure["unit"],
            *("" if number is None else f"{number:,.2f}" for number in numbers),
        )
    Console(width=100).print(table)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file that also receives the figures")
    parser.add_argument("--no-hosts", action="store_true", help="measure packets alone")
    arguments = parser.parse_args()
    text, size = generate()
    figures = measures(size, packets(text), {} if arguments.no_hosts else hosts())
    show(figures, size)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
