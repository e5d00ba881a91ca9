# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging a certificate: a real TLS listener, and a socket that does what HAProxy does."""

from __future__ import annotations

import http.server
import importlib
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

NAME = "deepseek.unit"
Run = Callable[..., dict[str, Any]]


def make(directory: Path, name: str) -> str:
    """A certificate that signs itself, with its key, in PEM."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-noenc", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.crt")),
        ],
        check=True,
        capture_output=True,
    )
    text = (directory / f"{name}.crt").read_text() + (directory / f"{name}.key").read_text()
    (directory / f"{name}.pem").write_text(text)
    return text


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class Haproxy:
    """Takes a certificate in two steps, as HAProxy does, and serves it to new connections."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refuses = ""
        self.takes = True
        self.pending = ""
        self.commands: list[str] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory / "server.pem")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(directory / "admin.sock"))
        self.control.listen()
        threading.Thread(target=self.obey, daemon=True).start()

    def obey(self) -> None:
        while True:
            try:
                connection, _address = self.control.accept()
            except OSError:
                return
            text = ""
            while not text.endswith("\n") or ("<<" in text and not text.endswith("\n\n")):
                text += connection.recv(65536).decode()
            connection.sendall(self.answer(text).encode())
            connection.close()

    def answer(self, text: str) -> str:
        command = text.splitlines()[0]
        self.commands.append(" ".join(command.split()[:3]))
        if command == "show info":
            return "Pid: 1\n"
        if command.startswith(self.refuses or "never"):
            return (
                "unable to load certificate: inconsistencies between private key and certificate\n"
            )
        if command.startswith("set ssl cert"):
            self.pending = text.partition("<<\n")[2]
            return "Transaction created for certificate!\n"
        if command.startswith("commit ssl cert") and self.takes:
            (self.directory / "committed.pem").write_text(self.pending)
            self.context.load_cert_chain(self.directory / "committed.pem")
        return "Committing\nSuccess!\n"


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    old, new = make(tmp_path, "old"), make(tmp_path, "new")
    (tmp_path / "ca.pem").write_text(old + new)
    (tmp_path / "server.pem").write_text(old)
    running = Haproxy(tmp_path)
    yield running
    running.server.shutdown()
    running.server.server_close()
    running.control.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def module(port: int, check: bool = False, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(
            "ansible_collections.onprem.deepseek.plugins.modules.gateway_certificate"
        )
        everything = {
            "src": str(tmp_path / "new.pem"),
            "path": str(tmp_path / "server.pem"),
            "socket": str(tmp_path / "admin.sock"),
            "address": "127.0.0.1",
            "port": port,
            "server_name": NAME,
            "ca_file": str(tmp_path / "ca.pem"),
            "_ansible_check_mode": check,
            **arguments,
        }
        with patch_module_args(everything), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return module


def test_a_running_process_takes_it_and_the_file_follows(
    haproxy: Haproxy, run: Run, tmp_path: Path
) -> None:
    port = haproxy.server.server_address[1]
    assert run(port, check=True)["changed"]
    assert haproxy.commands == []
    first = run(port)
    assert (first["changed"], first["running"]) == (True, True)
    assert 0 < first["seconds"] < 10
    assert (tmp_path / "server.pem").read_text() == (tmp_path / "new.pem").read_text()
    assert not run(port)["changed"]


def test_what_haproxy_refuses_changes_nothing(haproxy: Haproxy, run: Run, tmp_path: Path) -> None:
    haproxy.refuses = "commit ssl cert"
    before = (tmp_path / "server.pem").read_text()
    result = run(haproxy.server.server_address[1])
    assert result["code"] == "REFUSED"
    assert "inconsistencies" in result["msg"]
    assert haproxy.commands[-1] == "abort ssl cert"
    assert (tmp_path / "server.pem").read_text() == before


def test_the_present_one_is_taken_back_when_the_new_one_is_not_served(
    haproxy: Haproxy, run: Run, tmp_path: Path
) -> None:
    haproxy.takes = False
    result = run(haproxy.server.server_address[1])
    assert result["code"] == "NOT_SERVED"
    assert haproxy.commands.count("commit ssl cert") == 2
    assert haproxy.pending.strip().splitlines() == (tmp_path / "old.pem").read_text().splitlines()
    assert (tmp_path / "server.pem").read_text() == (tmp_path / "old.pem").read_text()


def test_a_certificate_that_clients_would_not_trust_is_taken_back(
    haproxy: Haproxy, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text((tmp_path / "old.crt").read_text())
    result = run(haproxy.server.server_address[1])
    assert result["code"] == "PROBE"
    assert "CERTIFICATE_VERIFY_FAILED" in result["msg"]
    assert haproxy.commands.count("commit ssl cert") == 2


def test_without_a_running_process_only_the_file_is_written(tmp_path: Path, run: Run) -> None:
    make(tmp_path, "new")
    result = run(1)
    assert (result["changed"], result["running"], result["seconds"]) == (True, False, 0.0)
    assert (tmp_path / "server.pem").stat().st_mode & 0o777 == 0o644


def test_a_file_without_a_certificate_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "new.pem").write_text("nothing")
    assert run(1)["code"] == "CERTIFICATE"
