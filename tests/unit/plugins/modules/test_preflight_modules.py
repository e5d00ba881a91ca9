# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_info, prerequisites and network_probe: arguments and results, on this machine."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from waiting import PATIENCE

COLLECTION = "ansible_collections.onprem.deepseek.plugins"
ROOT = Path(__file__).resolve().parents[4]
# names a socket of this network namespace, which another run of these tests may share
TOKEN = f"a token of this test, {uuid.uuid4().hex}"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def module(name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(f"{COLLECTION}.modules.{name}")
        with (
            patch_module_args({"_ansible_check_mode": check, **arguments}),
            pytest.raises(SystemExit),
        ):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        result.pop("invocation", None)
        return result

    return module


def documented(name: str) -> Any:
    return yaml.safe_load(importlib.import_module(f"{COLLECTION}.modules.{name}").RETURN)


def ad_hoc(**arguments: Any) -> dict[str, Any]:
    """Through ansible itself, so that the process that listens is left behind by a real module."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *("localhost", "--inventory", "localhost,", "--connection", "local", "--one-line"),
            *("--extra-vars", json.dumps({"ansible_python_interpreter": sys.executable})),
            *("--module-name", "onprem.deepseek.network_probe"),
            *("--args", json.dumps(arguments)),
            "--check",
        ],
        env={
            **os.environ,
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert TOKEN not in done.stdout
    result: dict[str, Any] = json.loads(done.stdout.partition("=>")[2])
    return result


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_what_other_roles_put_on_a_host_is_required(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    assert run("prerequisites", files={"tls": [str(there)]}) == {
        "changed": False,
        "ready": True,
        "missing": [],
        "findings": [],
    }
    files = {
        "tls": [str(there), "/nowhere/a", "/nowhere/b"],
        "serving_environment": ["/nowhere/c"],
        "model_storage": [str(there)],
    }
    refused = run("prerequisites", files=files)
    assert [tuple(one.values()) for one in refused["findings"]] == [
        (
            "/nowhere/a, /nowhere/b are missing",
            "Apply the role onprem.deepseek.tls to this host first",
        ),
        (
            "/nowhere/c is missing",
            "Apply the role onprem.deepseek.serving_environment to this host first",
        ),
    ]
    assert refused["failed"]
    assert refused["msg"] == (
        "/nowhere/a, /nowhere/b are missing. Apply the role onprem.deepseek.tls to this host first."
        " /nowhere/c is missing. Apply the role onprem.deepseek.serving_environment to this host"
        " first."
    )
    for result in (
        run("prerequisites", check=True, files=files),
        run("prerequisites", files=files, required=False),
    ):
        assert result == {
            "changed": False,
            "ready": False,
            "missing": ["/nowhere/a", "/nowhere/b", "/nowhere/c"],
            "findings": refused["findings"],
        }
        assert result.keys() - {"changed"} == documented("prerequisites").keys()


def test_host_info_gives_what_it_documents(run: Run, tmp_path: Path) -> None:
    result = run(
        "host_info",
        check=True,
        addresses={"management": "127.0.0.1", "storage": "192.0.2.1"},
        store=str(tmp_path / "store"),
        controller_time=0.0,
    )
    assert result.pop("changed") is False
    returned = documented("host_info")
    assert result.keys() == returned.keys()
    for name in ("clock", "disk", "gpu"):
        assert result[name].keys() == returned[name]["contains"].keys()
    assert result["nics"]["storage"] is None
    assert result["nics"]["management"].keys() == returned["nics"]["sample"]["storage"].keys()
    assert result["nics"]["management"]["interface"] == "lo"
    assert result["clock"]["offset_seconds"] > 1e9
    assert result["disk"]["read_mb_s"] is None


def test_a_probe_from_beginning_to_end_in_check_mode(run: Run) -> None:
    port = free_port()
    here = ["127.0.0.1", "192.0.2.1"]
    common = {"token": TOKEN, "port": port}
    listening = ad_hoc(action="listen", addresses=here, peers=["127.0.0.1"], seconds=30, **common)
    assert listening["errors"] == {"192.0.2.1": "this host does not have the address"}
    other = {"name": "a", "zone": "storage", "address": "127.0.0.1", "source": "127.0.0.1"}
    probed = run("network_probe", action="probe", targets=[other], samples=10, **common)
    transferred = run(
        "network_probe",
        action="transfer",
        targets=[other],
        transfer_seconds=0.1,
        transfer_mb=10,
        **common,
    )
    stopped = run("network_probe", action="stop", token=TOKEN)
    after = run("network_probe", action="probe", targets=[other], **common)
    documented_keys = documented("network_probe")["results"]["contains"].keys()
    assert probed["results"][0].keys() == documented_keys
    assert probed["results"][0]["path_mtu"] == 1500
    assert transferred["results"][0]["bandwidth_mbps"]["from"] > 10
    assert after["results"][0]["problem"] == "the connection was refused"
    assert not any(one["changed"] for one in (listening, probed, transferred, stopped, after))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"addresses": ["localhost"]}, "'localhost' is not an IP address"),
        ({"peers": ["10.0.0.0/8"]}, "'10.0.0.0/8' is not an IP address"),
        (
            {"targets": [{"name": "a", "address": "::1", "source": "x"}]},
            "'x' is not an IP address",
        ),
        ({"token": "short"}, "less than 16 characters"),
        ({"port": 0}, "port: it is 0"),
        ({"seconds": 0}, "seconds: it is 0.0"),
        ({"seconds": 1e9}, "at most 3600"),
        ({"transfer_seconds": 60}, "at most 10"),
        ({"transfer_mb": -1}, "transfer_mb: it is -1"),
    ],
)
def test_arguments_that_cannot_be(run: Run, arguments: dict[str, Any], says: str) -> None:
    result = run("network_probe", **{"action": "listen", "token": TOKEN, "port": 8442, **arguments})
    assert result["failed"]
    assert says in result["msg"]
