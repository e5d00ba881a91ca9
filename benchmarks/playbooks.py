# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each playbook costs while clients ask: minutes, changes, and requests that failed.

    python benchmarks/playbooks.py [--inventory DIR] [--client here|gateway] [--only NAME ...]
                                    [--note TEXT] [--write]

On the hosts of `make demo`, or those of another inventory that serves. About five requests a second
go to the first gateway's service address: kept connections, new ones and streams. They come from
this machine, which in the lab has an address in the service network as a client has, or from the
gateway itself. With `--write` the table goes to docs/measurements/playbooks.md; rows there that
this run does not measure stay, each with its own date. What follows from a row is left as the next
one wants it: settings and versions go forth and back. The zones are enforced first, so that all
that follows is done under them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = str(Path(sys.prefix) / "bin" / "ansible-playbook")
AD_HOC = str(Path(sys.prefix) / "bin" / "ansible")
RESULT = ROOT / "docs" / "measurements" / "playbooks.md"
GATEWAY = ROOT / "molecule" / "gateway"
CLIENTS, STREAMS, PAUSE = 5, 1, 0.9
NEXT, UNUSED = "1.1.0", "1.2.0"
# For what a case waits for.
MOST_SECONDS = 600
# Playbooks without a row, and why.
LEFT_OUT = {"driver_upgrade": "needs hosts with GPUs"}


HEAD = """\
# What each playbook costs while clients ask

Written by `python benchmarks/playbooks.py --write` on the hosts of `make demo`.

- Machine: {machine}
- Hosts: {hosts}
- Requests: {clients} clients on {client}, each with one request at a time and {pause} s between
  two, together at most {rate} a second. Streams are read by {streams} of them, and one connects
  for each request.

A request failed if its status was not 200, if it was cut, or if a stream had no end.

| playbook | what is done | minutes | changed | failed requests | requests | slowest, s | when |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Case:
    """One run of a playbook, with what is set by --extra-vars, and ad hoc tasks before it."""

    title: str
    playbook: str
    variables: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    # an ad hoc task that is repeated, while clients ask, until it succeeds
    wait: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, str]:
        """The first two cells of the row: no two cases have the same."""
        settings = " ".join(f"`{name}={value}`" for name, value in self.variables.items())
        return f"`{self.playbook}.yml`", f"{self.title} {settings}".strip()


@dataclass(frozen=True)
class Measured:
    """Seconds, results that changed, and what the clients met meanwhile."""

    case: Case
    status: int
    seconds: float
    changed: int
    requests: int
    failed: int
    slowest: float
    first_problem: str


SETTING = {"inference_queue": 63}
SWITCH = {"deepseek_model_version": NEXT}
# longer than what the hosts have, which is for 90 days at most
RENEWED = {"tls_internal_validity_days": 100, "tls_internal_renew_before_days": 95}
UNSERVED = {"deepseek_model_version": UNUSED}
RETIRED = {"retire_version": UNUSED, "retire_confirm": f"tiny-onprem/{UNUSED}"}
# As a host that was installed again: no file of the store is left.
EMPTY = (
    *("storage-3", "--become", "--module-name=ansible.builtin.shell"),
    "--args=rm -rf {{ deepseek_store_dir }}/*",
)
REPLACED = {"replace_new": "storage-3"}
# An inventory beside the other one, in which a new version is on one of two hosts.
CANARY = (f"--inventory={ROOT / 'molecule/site/canary'}",)
READY = (
    *("release", "--become", "--module-name=ansible.builtin.shell"),
    "--args=/usr/local/sbin/deepseek-rollout status | grep -q '\"ready\": true'",
)
PROMOTED = {"deepseek_model_version": NEXT, "inference_queue": 63}
CASES = (
    Case("wheels, all there", "bundle_fetch"),
    Case("look whether all is well", "verify"),
    Case("packet filters between the zones", "zones_enforce"),
    Case("every pair of hosts tried with packets", "zones_verify"),
    Case("check before a rollout", "preflight"),
    Case("nothing to change", "site"),
    Case("nothing to change, `--check`", "site", arguments=("--check",)),
    Case("another setting of the workers", "site", SETTING),
    Case("the setting before", "site"),
    Case("another version of the model", "site", SWITCH),
    Case("the version before", "site"),
    Case("a version that is not served yet", "model_publish", UNSERVED),
    Case("a version ahead of time", "model_cache", {"cache_version": UNUSED}),
    Case("say what would be removed", "model_retire", {"retire_version": UNUSED}),
    Case("remove a version", "model_retire", RETIRED),
    Case("other sources, nothing new", "storage_upgrade"),
    Case("health of the copies", "storage_health"),
    Case("an empty host in the place of one", "storage_replace_host", REPLACED, before=EMPTY),
    Case("no host has a GPU", "gpu_burn_in"),
    Case("certificates, none due", "tls_renew"),
    Case("all certificates", "tls_renew", RENEWED),
    Case("the certificates that hosts have", "tls_reload"),
    Case("the gateway's key", "tls_rotate_gateway_key"),
    Case("the issuing CA", "tls_rotate_ca"),
    Case("a host's certificates revoked", "tls_revoke", {"revoke_hosts": ["storage-2"]}),
    Case("a new version gets a share", "release_canary", arguments=CANARY),
    Case("how it does", "release_status", arguments=CANARY),
    Case("its share is taken away", "release_stop", arguments=CANARY),
    Case("its host has the version before", "release_rollback", arguments=CANARY),
    Case("it gets a share again", "release_canary", {"canary_retry": True}, CANARY),
    Case("all hosts have it", "release_promote", arguments=CANARY, wait=READY),
    Case("look whether all is well, at the end", "verify", PROMOTED),
)


def play(inventory: str, playbook: Path, *arguments: str) -> tuple[int, int, float, str]:
    """Run a playbook. Returns its status, the number of changed results, seconds and output."""
    with tempfile.NamedTemporaryFile(suffix=".json") as timings:
        start = time.monotonic()
        done = subprocess.run(
            [PLAYBOOK, f"--inventory={inventory}", str(playbook), *arguments],
            cwd=ROOT,
            env={**os.environ, "ONPREM_DEEPSEEK_TIMINGS": timings.name, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - start
        written = Path(timings.name).read_text(encoding="utf-8")
    changed = int(json.loads(written)["changed"]) if written else 0
    return done.returncode, changed, seconds, done.stdout + done.stderr


class Load:
    """Clients on the first gateway, which ask its service address until they are told to stop."""

    def __init__(self, inventory: str, directory: Path, model: str) -> None:
        self._inventory = inventory
        self._directory = directory
        self._body = {
            "model": model,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "Who are you?"}],
        }

    def _tasks(self, name: str, tasks: Sequence[dict[str, Any]]) -> None:
        playbook = self._directory / f"{name}.json"
        asked = [f"--clients={CLIENTS}", f"--streams={STREAMS}", f"--pause={PAUSE}"]
        plays = [
            {
                "name": name,
                "hosts": "gateway[0]",
                "become": True,
                "gather_facts": False,
                "vars": {
                    "verify_address": "{{ deepseek_zone_addresses.service }}",
                    "verify_load": [*asked, f"--body={json.dumps(self._body)}", "--ends=[DONE]"],
                    "verify_kinds": ["kept", "new", "stream"],
                },
                "tasks": list(tasks),
            }
        ]
        playbook.write_text(json.dumps(plays), encoding="utf-8")
        status, _changed, _seconds, said = play(self._inventory, playbook)
        if status:
            sys.exit(f"the clients could not be {name}\n{said}")

    def start(self) -> None:
        program = {"src": str(GATEWAY / "files/load.py"), "dest": "/root/load.py", "mode": "0600"}
        start = str(GATEWAY / "tasks/load_start.yml")
        self._tasks(
            "started",
            [
                {"name": "Copy the program that makes the load", "ansible.builtin.copy": program},
                {"name": "Start", "ansible.builtin.include_tasks": start},
            ],
        )

    def stop(self) -> dict[str, Any]:
        """End the clients and return what they met, as molecule/gateway/files/load.py prints it."""
        met = self._directory / "met.json"
        fetch = {"src": "/root/load.json", "dest": str(met), "flat": True}
        stop = {"argv": ["systemctl", "stop", "verify-load.service"]}
        self._tasks(
            "stopped",
            [
                {"name": "Let the clients finish", "ansible.builtin.command": stop},
                {"name": "Read what they met", "ansible.builtin.fetch": fetch},
            ],
        )
        result: dict[str, Any] = json.loads(met.read_text(encoding="utf-8"))
        return result


class LoadFromHere(Load):
    """The same clients on this machine."""

    def start(self) -> None:
        fetch = {"src": "{{ deepseek_tls_dir }}/ca.pem", "dest": str(self._ca), "flat": True}
        address = {"content": "{{ deepseek_zone_addresses.service }}", "dest": str(self._address)}
        self._tasks(
            "prepared",
            [
                {"name": "Copy what the clients trust", "ansible.builtin.fetch": fetch},
                {
                    "name": "Write which address they ask",
                    "ansible.builtin.copy": {**address, "mode": "0600"},
                    "delegate_to": "localhost",
                    "become": False,
                },
            ],
        )
        self._clients = subprocess.Popen(
            [
                *(sys.executable, str(GATEWAY / "files/load.py"), self._address.read_text()),
                *(f"--clients={CLIENTS}", f"--streams={STREAMS}", f"--pause={PAUSE}"),
                *(f"--body={json.dumps(self._body)}", "--ends=[DONE]", f"--ca={self._ca}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(2)

    def stop(self) -> dict[str, Any]:
        self._clients.terminate()
        said, _nothing = self._clients.communicate()
        result: dict[str, Any] = json.loads(said)
        return result

    @property
    def _ca(self) -> Path:
        return self._directory / "ca.pem"

    @property
    def _address(self) -> Path:
        return self._directory / "address"


CLIENT = {"here": (LoadFromHere, "the controller"), "gateway": (Load, "the first gateway")}


def prepare(case: Case, inventory: str) -> None:
    if case.before:
        subprocess.run([AD_HOC, f"--inventory={inventory}", *case.before], cwd=ROOT, check=True)


def wait(case: Case, inventory: str) -> None:
    command = [AD_HOC, f"--inventory={inventory}", *case.wait]
    end = time.monotonic() + MOST_SECONDS
    while subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode:
        if time.monotonic() > end:
            sys.exit(f"{case.title}: for {MOST_SECONDS} s this did not succeed: {case.wait[-1]}")
        time.sleep(5)


def measure(case: Case, inventory: str, load: Load) -> Measured:
    prepare(case, inventory)
    load.start()
    if case.wait:
        wait(case, inventory)
    extra = (f"--extra-vars={json.dumps(case.variables)}",) if case.variables else ()
    playbook = ROOT / "playbooks" / f"{case.playbook}.yml"
    status, changed, seconds, said = play(inventory, playbook, *extra, *case.arguments)
    met = load.stop()
    if status:
        print(said[-3000:], file=sys.stderr)
    return Measured(
        case=case,
        status=status,
        seconds=seconds,
        changed=changed,
        requests=sum(met["answered"].values()) + met["failed"],
        failed=met["failed"],
        slowest=met["slowest"],
        first_problem=next(iter(met["problems"]), ""),
    )


def row(result: Measured, note: str = "") -> str:
    """A line of the table; what did not succeed says so. `note`: what else the machine did."""
    said = "" if result.status == 0 else f", **status {result.status}**"
    failed = f"**{result.failed}**" if result.failed else "0"
    playbook, done = result.case.cells
    cells = (
        playbook + said,
        done,
        f"{result.seconds / 60:.1f}",
        str(result.changed),
        failed,
        str(result.requests),
        f"{result.slowest:.1f}",
        f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}" + (f", {note}" if note else ""),
    )
    return "| " + " | ".join(cells) + " |"


def rows_before(text: str) -> dict[tuple[str, str], str]:
    """The rows of a table that was written before, by their first two cells."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {
        (first.partition(",")[0], second): line
        for (first, second, *_rest), line in zip(cells, lines, strict=True)
    }


def machine() -> str:
    """Processors, memory and kernel of the machine that the hosts share."""
    kib = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    cores = len(os.sched_getaffinity(0))
    return f"{cores} processors, {kib / 2**20:.0f} GiB, Linux {platform.release().split('-')[0]}"


def table(
    results: Sequence[Measured],
    before: dict[tuple[str, str], str],
    hosts: str,
    client: str,
    note: str,
) -> str:
    """What the file says: the rows measured now, and those of before that were not, in order."""
    busy = os.getloadavg()[2]
    head = HEAD.format(
        machine=f"{machine()}; load average over 15 minutes at the end {busy:.1f}",
        hosts=hosts,
        clients=CLIENTS,
        client=client,
        pause=PAUSE,
        rate=f"{CLIENTS / PAUSE:.1f}",
        streams=STREAMS,
    )
    rows = before | {result.case.cells: row(result, note) for result in results}
    ran = [case for case in CASES if case.cells in rows]
    lines = [head, *(rows[case.cells] for case in ran)]
    problems = [
        f"- `{result.case.playbook}.yml`: {result.first_problem}"
        for result in results
        if result.failed
    ]
    if problems:
        lines += ["", "The first failed request of each:", "", *problems]
    left_out = unmeasured(ran)
    lines += ["", f"Not run: {', '.join(left_out)}." if left_out else "All were run."]
    return "\n".join(lines) + "\n"


def unmeasured(ran: Sequence[Case]) -> list[str]:
    """The playbooks of which no case ran, and why where that is known."""
    there = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    without = sorted(there - {case.playbook for case in ran})
    return [
        f"`{name}.yml`" + (f" ({LEFT_OUT[name]})" if name in LEFT_OUT else "") for name in without
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Minutes, changes and failed requests of each playbook."
    )
    parser.add_argument("--inventory", default=str(ROOT / "inventories" / "lab"))
    parser.add_argument("--client", choices=CLIENT, default="here", help="where the clients are")
    parser.add_argument("--model", default="tiny-onprem", help="what the clients ask for")
    parser.add_argument("--only", nargs="*", help="playbooks, by name")
    parser.add_argument(
        "--note", default="", help="what else the machine did, for the rows measured now"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    wanted = parser.parse_args()
    results: list[Measured] = []
    before = rows_before(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as directory:
        kind, client = CLIENT[wanted.client]
        load = kind(wanted.inventory, Path(directory), wanted.model)
        for case in CASES:
            if wanted.only and case.playbook not in wanted.only:
                continue
            results.append(measure(case, wanted.inventory, load))
            print(row(results[-1]), flush=True)
            hosts = f"inventory `{Path(wanted.inventory).name}`"
            text = table(results, before, hosts, client, wanted.note)
            if wanted.write:
                RESULT.parent.mkdir(parents=True, exist_ok=True)
                RESULT.write_text(text, encoding="utf-8")
    sys.exit(any(result.failed or result.status for result in results))


if __name__ == "__main__":
    main()
