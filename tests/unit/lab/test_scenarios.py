# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the scenarios, with a stand-in for Molecule."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import load_script
from waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "tests" / "lab" / "scenarios.py"

# As Molecule 26 and Ansible write, with their colours and frames.
MOLECULE = """#!/bin/sh
echo "$*" "$ONPREM_CHECK_AFTER"
echo "first ${ONPREM_DESTROY_BEFORE:-destroy}, then ${ONPREM_SECOND_RUN:-idempotence}"
say() { printf '\\033[36mINFO    \\033[0m \\033[32m%s\\033[0m ➜ \\033[33m%s\\033[0m: %s\\n' "$@"; }
say "$3" discovery 'scenario test matrix: create, converge'
say "$3" create '\033[36mExecuting\033[0m'
printf '  \033[2m│\033[0m localhost   : ok=2    changed=1    unreachable=0    failed=0\033[0m\n'
printf '  \033[2m│\033[0m skipped=0    rescued=0    ignored=0\n'
say "$3" create '\033[32mExecuted: Successful\033[0m'
say "$3" converge '\033[36mExecuting\033[0m'
for host in a-1 a-2; do
  printf "  \033[2m│\033[0m $host   : ok=${RESULTS:-40}  changed=31   unreachable=1    failed=2\n"
  printf '  \033[2m│\033[0m skipped=3    rescued=4    ignored=9\n'
done
i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done
test "$3" != broken
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    monkeypatch.delenv("ONPREM_TEST_ALL", raising=False)
    return load_script(PROGRAM, "lab_scenarios")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, hosts in {"small": 1, "large": 3, "broken": 2}.items():
        inventory = tmp_path / "molecule" / name / "inventory"
        inventory.mkdir(parents=True)
        (inventory / "hosts.yml").write_text("lab_debian: bookworm\n" * hosts)
        (inventory.parent / "molecule.yml").write_text("---\n")
    molecule = tmp_path / "bin" / "molecule"
    molecule.parent.mkdir()
    molecule.write_text(MOLECULE)
    molecule.chmod(0o755)
    recorded = {name: {"hosts": 2, "task_results": 102} for name in ("broken", "large", "small")}
    (tmp_path / "tests" / "lab").mkdir(parents=True)
    (tmp_path / "tests" / "lab" / "recorded.json").write_text(json.dumps({"scenarios": recorded}))
    monkeypatch.setenv("PATH", f"{molecule.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("ONPREM_LAB_STATE", str(tmp_path / "state"))
    return tmp_path


def test_those_with_most_hosts_come_first(program: ModuleType, root: Path) -> None:
    assert program.scenarios(root) == ["large", "broken", "small"]


def test_one_that_fails_is_shown_and_the_others_go_on(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(root, []) == 1
    said = capsys.readouterr().out
    failed = said.index("FAILED broken: ")
    assert said.index("test --scenario-name broken \n") > failed
    assert said.index("All of it: ") > failed
    assert "passed large: " in said
    assert said.endswith("scenarios: 2 passed, 1 failed\n")


@pytest.mark.parametrize(
    ("lab", "state", "first"),
    [
        (False, "", "dependency"),
        (False, "created: false\n", "dependency"),
        (False, "converged: false\ncreated: true\n", "destroy"),
        (True, "created: false\n", "destroy"),
    ],
)
def test_what_is_left_of_an_earlier_run_is_destroyed_first(
    program: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    lab: bool,
    state: str,
    first: str,
) -> None:
    monkeypatch.setenv("ANSIBLE_HOME", str(root / "home"))
    (root / "home" / "tmp" / "molecule.a1b2.small").mkdir(parents=True)
    (root / "home" / "tmp" / "molecule.a1b2.small" / "state.yml").write_text(state)
    if lab:
        (root / "state" / "labs" / "small").mkdir(parents=True)
    assert program.main(root, ["small"]) == 0
    said = (root / ".cache" / "molecule" / "small.log").read_text()
    assert f"first {first}," in said


@pytest.mark.parametrize(("test_all", "second"), [("false", "dependency"), ("true", "idempotence")])
def test_a_second_run_that_the_longest_proves_is_left_to_test_all(
    program: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch, test_all: str, second: str
) -> None:
    monkeypatch.setattr(program, "SECOND_RUN_ELSEWHERE", ("small",))
    monkeypatch.setenv("ONPREM_TEST_ALL", test_all)
    assert program.main(root, ["small", "large"]) == 0
    logs = root / ".cache" / "molecule"
    assert f", then {second}\n" in (logs / "small.log").read_text()
    assert ", then idempotence\n" in (logs / "large.log").read_text()


def test_a_second_run_is_left_out_only_for_roles_of_the_longest(program: ModuleType) -> None:
    site = "".join(path.read_text() for path in (ROOT / "playbooks").glob("*.yml"))
    for name in program.SECOND_RUN_ELSEWHERE:
        assert f"role: onprem.deepseek.{name}\n" in site
    assert "idempotence" in (ROOT / "molecule" / program.LONGEST / "molecule.yml").read_text()


def test_all_pass(program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(root, ["small", "large"]) == 0
    assert capsys.readouterr().out.endswith("scenarios: 2 passed, 0 failed\n")


def test_one_that_is_not_there_is_refused_before_any_runs(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(root, ["small", "smal"]) == 2
    assert capsys.readouterr().out == "no such scenario: smal; there are large, broken, small\n"
    assert not (root / ".cache").exists()


def test_no_more_run_at_once_than_there_is_room_for(
    program: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large has 3 hosts and small 1: broken, with 2, has to wait for large."""
    now: list[str] = []
    together: list[list[str]] = []
    small = threading.Event()

    def run(_root: Path, _molecule: str, name: str, _stop: threading.Event) -> Any:
        now.append(name)
        together.append(sorted(now))
        if name == "small":
            small.set()
        assert small.wait(PATIENCE)
        # for one that must not begin yet
        time.sleep(0.1)
        now.remove(name)
        return program.Outcome(name, True, program.Times((), 0.3, 0.1), root)

    monkeypatch.setattr(program, "HOSTS_AT_A_TIME", 4)
    monkeypatch.setattr(program, "run", run)
    ended = list(program.run_all(root, "molecule", ["large", "broken", "small"]))
    assert sorted(outcome.name for outcome in ended) == ["broken", "large", "small"]
    assert ["large", "small"] in together
    assert not any({"large", "broken"} <= set(names) for names in together)


def test_one_that_has_more_hosts_than_there_is_room_for_runs_alone(
    program: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "HOSTS_AT_A_TIME", 2)
    assert program.main(root, ["large", "small"]) == 0


def test_the_longest_goes_before_the_others(program: ModuleType, root: Path) -> None:
    for name in ("inference", "model_release", "site"):
        (root / "molecule" / name).mkdir()
        (root / "molecule" / name / "molecule.yml").write_text("---\n")
    assert program.scenarios(root)[:3] == ["site", "inference", "model_release"]
    other = root / "bin" / "molecule"
    other.write_text("#!/bin/sh\nnice\n")
    levels = {
        name: int(program.run(root, str(other), name, threading.Event()).log.read_text())
        for name in ("site", "small")
    }
    assert levels["small"] == levels["site"] + 5


def test_one_that_hangs_is_ended_with_what_it_started(
    program: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (root / "bin" / "molecule").write_text("#!/bin/sh\nsleep 600 & echo $!\nwait\n")
    monkeypatch.setattr(program, "SILENT_SECONDS", 3)
    assert program.main(root, ["small"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("FAILED small: ")
    assert "Ended: silent for " in said[3]
    until(lambda: _gone(int(said[1])))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_runs(root: Path, sent: signal.Signals) -> None:
    began = root / "began"
    (root / "bin" / "molecule").write_text(f"#!/bin/sh\necho $$ >{began}\nsleep 600\n")
    program = root / "tests" / "lab" / PROGRAM.name
    for name in (PROGRAM.name, "scenario_times.py"):
        shutil.copy(PROGRAM.with_name(name), program.with_name(name))
    process = subprocess.Popen([sys.executable, program, "small"], stderr=subprocess.DEVNULL)
    until(lambda: began.exists() and began.read_text())
    process.send_signal(sent)
    assert process.wait(PATIENCE) != 0
    until(lambda: _gone(int(began.read_text())))


def times(root: Path) -> dict[str, Any]:
    text = (root / ".cache" / "molecule" / "times.json").read_text()
    scenarios: dict[str, Any] = json.loads(text)["scenarios"]
    return scenarios


def test_what_each_phase_cost_is_written_down(program: ModuleType, root: Path) -> None:
    assert program.main(root, ["small"]) == 0
    assert program.main(root, ["large", "broken"]) == 1
    assert list(times(root)) == ["broken", "large", "small"]
    small = times(root)["small"]
    assert (small["passed"], small["hosts"], small["task_results"]) == (True, 2, 102)
    assert not times(root)["broken"]["passed"]
    create, converge = small["phases"]
    assert (create["name"], create["task_results"], create["hosts"]) == ("create", 2, 0)
    assert (converge["name"], converge["task_results"], converge["hosts"]) == ("converge", 100, 2)
    # how much of it is seen of so short a phase is the machine's, not the program's
    assert isinstance(converge["controller_processor_seconds"], float)
    # No host was listed: that is said, and no figure is made up.
    assert small["hosts_processor_seconds"] is None
    assert converge["unread"] == "no cgroup of a test host was listed"


@pytest.mark.parametrize(("results", "status"), [("49", 0), ("52", 1)])
def test_more_task_results_than_recorded_fail_until_they_are_recorded(
    program: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    results: str,
    status: int,
) -> None:
    monkeypatch.setenv("RESULTS", results)
    assert program.main(root, ["small"]) == status
    said = capsys.readouterr().out
    grown = "small: 126 task results, over 20% more than the 102 recorded\n"
    assert (grown in said) == ("scenarios.py --record" in said) == bool(status)
    program.main(root, ["--record"])
    assert program.main(root, ["small"]) == 0


def test_a_host_more_than_recorded_fails(program: ModuleType, root: Path) -> None:
    path = program.recorded_file(root)
    path.write_text('{"scenarios": {"small": {"hosts": 1, "task_results": 102}}}')
    assert program.main(root, ["small"]) == 1


def test_far_fewer_task_results_than_recorded_fail_until_they_are_recorded(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program.recorded_file(root)
    path.write_text('{"scenarios": {"small": {"hosts": 2, "task_results": 123}}}')
    assert program.main(root, ["small"]) == 1
    said = capsys.readouterr().out
    assert "small: 102 task results, and 123 are recorded: something may be left out\n" in said
    path.write_text('{"scenarios": {"small": {"hosts": 2, "task_results": 122}}}')
    assert program.main(root, ["small"]) == 0


def test_recording_needs_a_run_that_has_passed_and_forgets_what_is_gone(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = program.recorded_file(root)
    path.write_text('{"scenarios": {"gone": {"hosts": 1, "task_results": 1}}}')
    assert program.main(root, []) == 1
    assert "small: nothing is recorded of it" in capsys.readouterr().out
    assert program.main(root, ["--record"]) == 1
    assert "without a run that has passed: broken" in capsys.readouterr().out
    assert list(program.scenario_times.read(path)) == ["large", "small"]


def test_what_takes_long_is_not_compared(
    program: ModuleType,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ONPREM_TEST_ALL", "true")
    monkeypatch.setenv("RESULTS", "400")
    assert program.main(root, ["small"]) == 0
    log = (root / ".cache" / "molecule" / "small.log").read_text()
    assert log.startswith("test --scenario-name small check\n")  # what that of site waits for
    program.main(root, ["--record"])
    assert "without a run that has passed: large, broken, small" in capsys.readouterr().out
    assert program.scenario_times.read(program.recorded_file(root))["small"]["task_results"] == 102


def test_a_log_that_is_not_understood_is_no_scenario_without_tasks(
    program: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "bin" / "molecule").write_text("#!/bin/sh\necho all is well\n")
    assert program.main(root, ["small"]) == 1
    assert "small: its log has no task results" in capsys.readouterr().out


def test_what_hosts_use_is_counted_through_restarts_and_after_their_end(
    program: ModuleType, tmp_path: Path
) -> None:
    listed, left, first = tmp_path / "cgroups", tmp_path / "left", tmp_path / "first"

    def use(cgroup: Path, seconds: int) -> None:
        cgroup.mkdir(exist_ok=True)
        (cgroup / "cpu.stat").write_text(f"usage_usec {seconds * 1_000_000}\nuser_usec 1\n")

    use(left, 50)
    listed.write_text(f"{left}\n")
    hosts = program.scenario_times.Hosts(listed)  # with what another run has left
    assert hosts.seconds() == 0
    use(first, 3)
    listed.write_text(f"{first}\n")
    hosts.look()
    assert hosts.seconds() == 3
    use(first, 2)
    hosts.look()
    assert hosts.seconds() == 5
    shutil.rmtree(first)
    hosts.look()
    listed.unlink()
    hosts.look()
    assert (hosts.seconds(), hosts.unread()) == (5, "")


def test_hosts_whose_use_cannot_be_read_have_none(program: ModuleType, tmp_path: Path) -> None:
    listed = tmp_path / "cgroups"
    listed.write_text(f"{tmp_path}/nowhere\n")
    assert "nowhere/cpu.stat: FileNotFoundError" in program.scenario_times.Hosts(listed).unread()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
