# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking servers out of service, at a socket that answers as HAProxy 2.6 and 3.0 do."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from haproxy_socket import HEAD, answering

Run = Callable[..., dict[str, Any]]


class Haproxy:
    """Servers with their states; a drained one loses one request each time that it is asked."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.orders: list[str] = []
        self.becomes_healthy_after = 0
        self.stuck = False
        self.refuses = ""
        self.share = 0

    def add(
        self, name: str, port: int = 8000, requests: int = 0, model: str = "tiny", **state: int
    ) -> None:
        self.servers[name] = {
            "model": model,
            "port": port,
            "scur": requests,
            "op": 2,
            "admin": 0,
            "weight": 100,
            **state,
        }

    def answer(self, command: str) -> str:
        if command == "show info":
            return "Name: HAProxy\nPid: 1\n"
        if command.startswith("show map"):
            return f"0x55 tiny {self.share}\n"
        if command.startswith("show servers state"):
            return self.states()
        if command == "show stat":
            rows = [
                f"model:{s['model']},{name},0,,{s['scur']},,,," for name, s in self.servers.items()
            ]
            for server in self.servers.values():
                if server["admin"] & 0x08 and not self.stuck:
                    server["scur"] = max(0, server["scur"] - 1)
            return "\n".join(["# pxname,svname,qcur,qmax,scur,smax,slim,stot,", *rows, ""])
        _set, _server, name, _state, state = command.split()
        if self.refuses:
            return self.refuses
        self.orders.append(f"{name.partition('/')[2]} {state}")
        server = self.servers[name.partition("/")[2]]
        server["admin"] = 0x08 if state == "drain" else 0
        return "\n"

    def states(self) -> str:
        if self.becomes_healthy_after:
            self.becomes_healthy_after -= 1
            if not self.becomes_healthy_after:
                for server in self.servers.values():
                    server["op"] = 2
        rows = [
            f"5 model:{s['model']} {number} {name} 10.0.30.{number} {s['op']} {s['admin']} "
            f"{s['weight']} {s['weight']} 9 6 3 4 6 0 0 0 - {s['port']} - 1"
            for number, (name, s) in enumerate(self.servers.items(), 1)
        ]
        return "\n".join(["1", HEAD, *rows, ""])


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    running = Haproxy()
    with answering(tmp_path / "admin.sock", running.answer):
        yield running


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    imported = importlib.import_module(
        "ansible_collections.onprem.deepseek.plugins.modules.gateway_server"
    )

    def module(state: str, *names: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        servers = [
            {"name": name, "address": f"10.0.30.{number}", "port": 8000}
            for number, name in enumerate(names, 1)
        ]
        given = {
            "socket": str(tmp_path / "admin.sock"),
            "servers": servers,
            "state": state,
            "timeout": 5,
            "_ansible_check_mode": check,
            **arguments,
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return module


def test_requests_that_a_server_has_are_waited_for(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", requests=3)
    haproxy.add("b:main", requests=7)
    result = run("drain", "a:main")
    assert (result["changed"], result["requests"]) == (True, 0)
    assert haproxy.orders == ["a:main drain"]
    assert haproxy.servers["b:main"]["scur"] == 7


def test_the_wait_for_a_stream_that_does_not_end_is_bounded(haproxy: Haproxy, run: Run) -> None:
    haproxy.stuck = True
    haproxy.add("a:main", requests=2)
    haproxy.add("b:main")
    assert run("drain", "a:main", timeout=0)["requests"] == 2


@pytest.mark.parametrize(
    "other",
    [None, {"op": 0}, {"admin": 0x01}, {"admin": 0x08}, {"weight": 0}],
    ids=["none", "down", "in maintenance", "drained", "without weight"],
)
def test_the_last_server_that_takes_requests_is_not_taken_out(
    haproxy: Haproxy, run: Run, other: dict[str, int] | None
) -> None:
    haproxy.add("a:main")
    if other is not None:
        haproxy.add("b:main", **other)
    result = run("drain", "a:main")
    assert result["code"] == "LAST_ONE"
    assert "inference_accept_interruption" in result["msg"]
    assert haproxy.orders == []
    assert run("drain", "a:main", alone=True)["changed"]


def test_each_model_keeps_a_server(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main")
    haproxy.add("b:main", model="code")
    result = run("drain", "a:main")
    assert (result["code"], "model:tiny" in result["msg"]) == ("LAST_ONE", True)
    haproxy.add("c:main")
    assert run("drain", "a:main")["changed"]


@pytest.mark.parametrize(("share", "code"), [(500, None), (0, "LAST_ONE")])
def test_a_canary_takes_the_place_of_the_last_one_while_it_has_a_share(
    haproxy: Haproxy, run: Run, share: int, code: str | None
) -> None:
    haproxy.add("a:main")
    haproxy.add("b:main", weight=0)
    haproxy.share = share
    result = run("drain", "a:main")
    assert result.get("code") == code
    assert ("release_rollback" in result.get("msg", "")) == (code is not None)


def test_a_canary_that_takes_everything_is_not_taken_out(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", op=0)
    haproxy.add("b:main", weight=0)
    haproxy.share = 50
    assert run("drain", "b:main")["code"] == "LAST_ONE"


def test_a_canary_can_be_taken_out_and_put_back(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", weight=0)
    haproxy.add("b:main")
    assert run("drain", "a:main")["changed"]
    assert run("ready", "a:main")["changed"]
    haproxy.becomes_healthy_after = 3
    haproxy.servers["a:main"] |= {"op": 0, "admin": 0x08}
    assert run("ready", "a:main")["changed"]
    assert haproxy.becomes_healthy_after == 0


def test_a_server_that_takes_nothing_anyway_can_be_taken_out(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", op=0)
    haproxy.add("b:main", op=0)
    assert run("drain", "a:main")["changed"]


def test_a_server_is_back_when_it_was_found_healthy(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", op=0, admin=0x08)
    haproxy.becomes_healthy_after = 3
    result = run("ready", "a:main")
    assert (result["changed"], result["unknown"]) == (True, [])
    assert haproxy.becomes_healthy_after == 0
    assert not run("ready", "a:main")["changed"]


def test_a_server_that_is_not_found_healthy_is_named(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", op=0, admin=0x08)
    result = run("ready", "a:main", timeout=0)
    assert result["code"] == "NOT_HEALTHY"
    assert "a:main" in result["msg"]


def test_nothing_is_waited_for_at_another_address(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", port=8001, op=0, admin=0x08)
    assert run("ready", "a:main", timeout=0)["unknown"] == ["a:main"]
    assert haproxy.orders == ["a:main ready"]


def test_the_maintenance_of_an_operator_stays(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main", admin=0x01)
    assert not run("ready", "a:main", timeout=0)["changed"]
    assert haproxy.orders == []


def test_what_haproxy_does_not_know_is_no_error(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("b:main")
    assert not run("drain", "new:main")["changed"]
    assert run("ready", "new:main")["unknown"] == ["new:main"]


def test_a_gateway_that_does_not_run_has_nothing_to_take_out(run: Run, tmp_path: Path) -> None:
    assert run("drain", "a:main")["running"] is False
    (tmp_path / "admin.sock").touch()
    assert run("ready", "a:main")["running"] is False


def test_a_command_that_is_refused_is_reported(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main")
    haproxy.add("b:main")
    haproxy.refuses = "Permission denied"
    result = run("drain", "a:main")
    assert result["code"] == "REFUSED"
    assert "Permission denied" in result["msg"]


def test_check_mode_changes_nothing(haproxy: Haproxy, run: Run) -> None:
    haproxy.add("a:main")
    assert run("drain", "a:main", check=True)["changed"]
    assert not run("ready", "a:main", check=True)["changed"]
    assert haproxy.orders == []
