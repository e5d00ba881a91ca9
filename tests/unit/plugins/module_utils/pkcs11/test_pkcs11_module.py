# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PIN is encrypted with, with a stand-in for systemd-creds, and with a TPM in software."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import (
    arguments as pkcs11_module,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.pin import write_new_pin
from ansible_collections.onprem.deepseek.plugins.module_utils.store.arguments import (
    directory_signer,
)

TPM, DISK = "--with-key=tpm2", "--with-key=host"


class Module:
    """A module whose systemd-creds fails for some keys."""

    def __init__(
        self, has_tpm: bool, broken: tuple[str, ...] = (), lost: tuple[str, ...] = ()
    ) -> None:
        """`broken` keys do not encrypt; what is encrypted with `lost` ones does not open."""
        self.params: dict[str, str | None] = {"pin_credential": "hsm-pin"}
        self.has_tpm = has_tpm
        self.broken = broken
        self.lost = lost
        self.commands: list[list[str]] = []
        self.data: list[str] = []

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        if command == ["systemd-creds", "has-tpm2"]:
            return (0 if self.has_tpm else 1), "", ""
        if command[:2] == ["systemd-creds", "decrypt"]:
            lost = bool(set(self.commands[-1]) & set(self.lost))
            return int(lost), self.data[-1], "PCR bank invalid" if lost else ""
        self.commands.append(command)
        self.data.append(options["data"])
        failed = bool(set(command) & set(self.broken))
        return int(failed), "", "no such key" if failed else ""


@pytest.mark.parametrize(
    ("module", "tried"),
    [
        (Module(has_tpm=True), [TPM]),
        (Module(has_tpm=False), [DISK]),
        (Module(has_tpm=True, broken=(TPM,)), [TPM, DISK]),
        (Module(has_tpm=True, lost=(TPM,)), [TPM, DISK]),
    ],
    ids=[
        "TPM",
        "no TPM",
        "a TPM that systemd cannot use",
        "a TPM that does not open what it sealed",
    ],
)
def test_a_pin_is_sealed_to_the_tpm_where_there_is_one(module: Module, tried: list[str]) -> None:
    encrypt = pkcs11_module.encryptor(module)
    assert encrypt is not None
    encrypt("secret-pin", "/etc/pin.cred")
    assert [command[2] for command in module.commands] == tried
    assert ("--tpm2-pcrs=16" in module.commands[0]) == module.has_tpm
    assert module.data == ["secret-pin"] * len(tried)
    assert all("secret-pin" not in " ".join(command) for command in module.commands)


@pytest.mark.parametrize(
    ("broken", "lost", "says"),
    [((TPM, DISK), (), "no such key"), ((TPM,), (DISK,), "PCR bank invalid")],
)
def test_a_pin_that_cannot_be_encrypted_or_opened_is_not_written(
    broken: tuple[str, ...], lost: tuple[str, ...], says: str
) -> None:
    encrypt = pkcs11_module.encryptor(Module(has_tpm=True, broken=broken, lost=lost))
    assert encrypt is not None
    with pytest.raises(Pkcs11Error, match=says) as failure:
        encrypt("secret-pin", "/etc/pin.cred")
    assert "secret-pin" not in str(failure.value)


# With a TPM


class SoftwareTpm:
    """A module on a host with a TPM, started for each command: no kernel manages its sessions."""

    def __init__(self, directory: Path) -> None:
        self.params: dict[str, str | None] = {"pin_credential": None}
        self._directory = directory
        (directory / "tpm").mkdir()

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        if command == ["systemd-creds", "has-tpm2"]:
            return 0, "", ""
        if DISK in command:
            return 1, "", "this host has no other key"
        # a socket's path may not be long
        with tempfile.TemporaryDirectory(prefix="tpm") as place, self._started(place):
            device = {"SYSTEMD_TPM2_DEVICE": f"swtpm:path={place}/socket"}
            done = subprocess.run(
                command,
                input=options.get("data", ""),
                env={**os.environ, **device},
                capture_output=True,
                text=True,
                check=False,
            )
        return done.returncode, done.stdout, done.stderr

    @contextlib.contextmanager
    def _started(self, place: str) -> Iterator[None]:
        socket = f"type=unixio,path={place}/socket"
        with subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--flags", "startup-clear,not-need-init"),
                *("--tpmstate", f"dir={self._directory}/tpm", "--server", socket),
                *("--ctrl", f"{socket}.ctrl"),
            ],
            stdout=subprocess.DEVNULL,
        ) as tpm:
            try:
                while not Path(place, "socket.ctrl").exists() and tpm.poll() is None:
                    time.sleep(0.01)
                yield
            finally:
                tpm.kill()


@pytest.fixture
def tpm(tmp_path: Path) -> SoftwareTpm:
    return SoftwareTpm(tmp_path)


def test_a_pin_that_is_sealed_to_a_tpm_opens_there_and_nowhere_else(
    tpm: SoftwareTpm, tmp_path: Path
) -> None:
    path = tmp_path / "pin.cred"
    tpm.params["pin_credential"] = "hsm-pin"
    write_new_pin(str(path), pkcs11_module.encryptor(tpm))
    # those that sign name the plain file, whatever the host has
    tpm.params = {"pin_credential": None, "pin_file": str(tmp_path / "pin")}
    pin = pkcs11_module.pin_of(tpm)
    assert len(pin) == 24
    assert pin not in path.read_text()
    other = tmp_path / "other"
    other.mkdir()
    stolen = SoftwareTpm(other)
    stolen.params = dict(tpm.params)
    with pytest.raises(Pkcs11Error, match=r"pin\.cred cannot be decrypted as credential 'hsm-pin'"):
        pkcs11_module.pin_of(stolen)


def test_a_plain_pin_is_taken_where_there_is_one(tpm: SoftwareTpm, tmp_path: Path) -> None:
    for name, text in (("pin", "123456"), ("pin.cred", "sealed")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o400)
    tpm.params = {"pin_credential": None, "pin_file": str(tmp_path / "pin")}
    assert pkcs11_module.pin_of(tpm) == "123456"


def test_a_sealed_pin_goes_to_the_program_that_signs_through_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "pin.cred").write_text("sealed")
    asked: list[tuple[list[str], Any]] = []

    class Signs:
        """A module that signs."""

        def __init__(self) -> None:
            self.params = {
                "venv": "/venv",
                "module_path": "/lib.so",
                "token": "deepseek-release",
                "key": "release-signing",
                "pin_file": str(tmp_path / "pin"),
            }

        def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
            asked.append((command, options.get("data")))
            return 0, "secret-pin" if command[0] == "systemd-creds" else "", ""

    directory_signer(Signs())("/store/directory")
    (_decrypted, (command, data)) = asked
    assert (command[-2:], data) == (["--pin-file", "/dev/stdin"], "secret-pin")
    assert "secret-pin" not in " ".join(command)
