# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing over, with small programs in place of HAProxy and a socket in place of systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.module_utils.gateway import (
    handover as gateway_handover,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway import runtime_api as haproxy

# Answers at the runtime socket as HAProxy does, until it gets SIGUSR1.
GENERATION = """
import os, socket, sys
path = sys.argv[1]
server = socket.socket(socket.AF_UNIX)
server.bind(f"{path}.{os.getpid()}")
os.rename(f"{path}.{os.getpid()}", path)
server.listen()
while True:
    connection, _ = server.accept()
    command = b""
    while not command.endswith(b"\\n") or (b"<<" in command and not command.endswith(b"\\n\\n")):
        command += connection.recv(65536)
    if command == b"show info\\n":
        connection.sendall(b"Name: HAProxy\\nPid: %d\\n\\n" % os.getpid())
    elif command == b"show servers state\\n":
        connection.sendall(b"1\\n# be_id\\n")
    else:
        connection.sendall(command)
    connection.close()
"""


class Systemd:
    """Reads notices as systemd does; `takes_notice` says whether it comes to the barrier."""

    def __init__(self, directory: Path, takes_notice: bool = True) -> None:
        self.path = str(directory / "notify")
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.server.bind(self.path)
        self.messages: list[bytes] = []
        self.takes_notice = takes_notice
        self.kept: list[int] = []
        self.alive: list[bool] = []
        self.present: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while len(self.messages) < 2:
            message, descriptors, _flags, _address = socket.recv_fds(self.server, 4096, 1)
            self.messages.append(message)
            if self.present is not None:
                self.alive.append(self.present.poll() is None)
            for descriptor in descriptors:
                if self.takes_notice:
                    os.close(descriptor)
                else:
                    self.kept.append(descriptor)


@pytest.fixture
def present(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*generation(), str(tmp_path / "admin.sock")]) as process:
        until(lambda: answers(tmp_path / "admin.sock"))
        yield process
        process.kill()


def answers(path: Path) -> bool:
    try:
        return haproxy.process_id(str(path)) > 0
    except haproxy.HaproxyError:
        return False


def generation() -> list[str]:
    return [sys.executable, "-c", GENERATION]


def next_generation(directory: Path) -> list[str]:
    # what hand_over appends, -x SOCKET, comes after the socket to bind
    return [*generation(), str(directory / "admin.sock")]


def environment(systemd: Systemd, process: subprocess.Popen[bytes]) -> dict[str, str]:
    return {"NOTIFY_SOCKET": systemd.path, "MAINPID": str(process.pid)}


def test_systemd_knows_the_next_process_before_the_present_one_is_told_to_end(
    tmp_path: Path, present: subprocess.Popen[bytes]
) -> None:
    systemd = Systemd(tmp_path)
    systemd.present = present
    pid = gateway_handover.hand_over(
        tmp_path, next_generation(tmp_path), environment(systemd, present)
    )
    assert present.wait(PATIENCE) == -10  # SIGUSR1
    assert systemd.messages == [b"MAINPID=%d" % pid, b"BARRIER=1"]
    assert systemd.alive == [True, True]
    assert haproxy.process_id(str(tmp_path / "admin.sock")) == pid
    assert (tmp_path / "servers").read_text() == "1\n# be_id\n"
    os.kill(pid, 9)


def test_the_present_process_goes_on_when_the_next_one_does_not_start(
    tmp_path: Path, present: subprocess.Popen[bytes]
) -> None:
    systemd = Systemd(tmp_path)
    with pytest.raises(gateway_handover.HandoverError, match="ended with status 3"):
        gateway_handover.hand_over(
            tmp_path,
            [sys.executable, "-c", "import sys; sys.exit(3)"],
            environment(systemd, present),
        )
    assert present.poll() is None
    assert systemd.messages == []


def test_the_present_process_goes_on_when_systemd_takes_no_notice(
    tmp_path: Path, present: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_handover, "NOTICE_SECONDS", 0.2)
    systemd = Systemd(tmp_path, takes_notice=False)
    with pytest.raises(gateway_handover.HandoverError, match="took no notice"):
        gateway_handover.hand_over(
            tmp_path, next_generation(tmp_path), environment(systemd, present)
        )
    assert present.poll() is None
    for descriptor in systemd.kept:
        os.close(descriptor)


def test_a_payload_has_no_empty_line_before_its_end(
    tmp_path: Path, present: subprocess.Popen[bytes]
) -> None:
    path = str(tmp_path / "admin.sock")
    sent = haproxy.ask(path, "set ssl cert /x.pem", "first\n\nsecond\n")
    assert sent == "set ssl cert /x.pem <<\nfirst\nsecond"


def test_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    with pytest.raises(haproxy.HaproxyError, match=r"gone\.sock does not answer 'show info'"):
        haproxy.process_id(str(tmp_path / "gone.sock"))


def test_the_program_says_why_it_did_not_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAINPID", "1")
    monkeypatch.setattr(sys, "argv", ["gateway_handover", str(tmp_path), "true"])
    assert gateway_handover.main() == 1
    assert "not handed over" in capsys.readouterr().err
