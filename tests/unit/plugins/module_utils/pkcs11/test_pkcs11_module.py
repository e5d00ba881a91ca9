# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PIN is encrypted with, with a stand-in for systemd-creds."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import (
    arguments as pkcs11_module,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error

TPM, DISK = "--with-key=tpm2", "--with-key=host"


class Module:
    """A module whose systemd-creds fails for some keys."""

    def __init__(self, has_tpm: bool, broken: tuple[str, ...] = ()) -> None:
        self.params = {"pin_credential": "hsm-pin"}
        self.has_tpm = has_tpm
        self.broken = broken
        self.commands: list[list[str]] = []
        self.data: list[str] = []

    def run_command(self, command: list[str], **options: Any) -> tuple[int, str, str]:
        if command == ["systemd-creds", "has-tpm2"]:
            return (0 if self.has_tpm else 1), "", ""
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
    ],
    ids=["TPM", "no TPM", "a TPM that systemd cannot use"],
)
def test_a_pin_is_sealed_to_the_tpm_where_there_is_one(module: Module, tried: list[str]) -> None:
    encrypt = pkcs11_module.encryptor(module)
    assert encrypt is not None
    encrypt("secret-pin", "/etc/pin.cred")
    assert [command[2] for command in module.commands] == tried
    assert ("--tpm2-pcrs=" in module.commands[0]) == module.has_tpm
    assert module.data == ["secret-pin"] * len(tried)
    assert all("secret-pin" not in " ".join(command) for command in module.commands)


def test_a_pin_that_cannot_be_encrypted_is_not_written() -> None:
    encrypt = pkcs11_module.encryptor(Module(has_tpm=True, broken=(TPM, DISK)))
    assert encrypt is not None
    with pytest.raises(Pkcs11Error, match="no such key") as failure:
        encrypt("secret-pin", "/etc/pin.cred")
    assert "secret-pin" not in str(failure.value)
