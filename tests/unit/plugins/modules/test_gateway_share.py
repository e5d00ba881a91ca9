# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Setting shares by the module, at a socket that answers as HAProxy 2.6 and 3.0 do."""

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
ROWS = (
    "5 model:tiny 1 inference-1:a 10.0.30.1 2 0 100 100 9 6 3 4 6 0 0 0 - 8000 - 1",
    "5 model:tiny 2 inference-1:b 10.0.30.1 2 0 0 0 9 6 3 4 6 0 0 0 - 8001 - 1",
)


class Haproxy:
    """A map, and a backend with a canary."""

    def __init__(self) -> None:
        self.shares: dict[str, str] = {}
        self.orders: list[str] = []

    def answer(self, command: str) -> str:
        words = command.split()
        if words[:2] == ["show", "map"]:
            return "".join(f"0x5581{n} {k} {v}\n" for n, (k, v) in enumerate(self.shares.items()))
        if words[:2] == ["show", "servers"]:
            return "\n".join(["1", HEAD, *ROWS, ""])
        self.orders.append(command)
        self.shares[words[3]] = words[4]
        return "\n"


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    running = Haproxy()
    with answering(tmp_path / "admin.sock", running.answer):
        yield running


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    imported = importlib.import_module(
        "ansible_collections.onprem.deepseek.plugins.modules.gateway_share"
    )
    (tmp_path / "shares.map").write_text("# model, thousandths of its requests\n")

    def module(thousandths: int, *, model: str = "tiny", check: bool = False) -> dict[str, Any]:
        given = {
            "socket": str(tmp_path / "admin.sock"),
            "map": str(tmp_path / "shares.map"),
            "model": model,
            "thousandths": thousandths,
            "_ansible_check_mode": check,
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return module


def test_a_share_is_set_once(haproxy: Haproxy, run: Run, tmp_path: Path) -> None:
    result = run(50)
    assert (result["changed"], result["before"], result["share"]) == (True, 0, 50)
    assert "running: 0 thousandths" in result["diff"]["before"]
    assert "at the next start: 50 thousandths" in result["diff"]["after"]
    assert (tmp_path / "shares.map").read_text().endswith("\ntiny 50\n")
    assert not run(50)["changed"]
    assert len(haproxy.orders) == 1


def test_check_mode_says_what_would_be(haproxy: Haproxy, run: Run, tmp_path: Path) -> None:
    assert run(50, check=True)["changed"]
    assert not run(0, check=True)["changed"]
    assert haproxy.orders == []
    assert "tiny" not in (tmp_path / "shares.map").read_text()


def test_a_file_that_says_otherwise_is_a_change(haproxy: Haproxy, run: Run, tmp_path: Path) -> None:
    run(50)
    for text in ("tiny 250\n", "no share\n"):
        (tmp_path / "shares.map").write_text(text)
        assert run(50)["changed"]
        assert "tiny 50\n" in (tmp_path / "shares.map").read_text()
    assert haproxy.shares == {"tiny": "50"}


@pytest.mark.parametrize(
    ("model", "thousandths", "says"),
    [("tiny", 501, "0 to 500"), ("tiny", -1, "0 to 500"), ("code", 50, "no canary for the model")],
)
def test_what_cannot_be_is_refused(
    haproxy: Haproxy, run: Run, model: str, thousandths: int, says: str
) -> None:
    result = run(thousandths, model=model)
    assert (result["failed"], result["code"], says in result["msg"]) == (True, "SHARE", True)
    assert haproxy.orders == []


def test_a_gateway_that_does_not_run_is_a_failure(run: Run) -> None:
    assert run(0)["code"] == "HAPROXY"
