# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the pkcs11_* modules share: arguments, PIN, user, and turning failures into results."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from .objects import Key, Pkcs11Error, TokenInfo
from .pin import Decrypt, Encrypt, load_pin
from .session import Library, Session, open_library
from .token_keys import public_pem


def common_arguments() -> dict[str, Any]:
    """Arguments of every module, as in the documentation fragment."""
    return {
        "module_path": {"type": "path", "required": True},
        "pin_file": {"type": "path", "required": True},
        "pin_credential": {"type": "str"},
        "user": {"type": "str"},
    }


# What role tls names the credential with a PIN, and the end of its file's name. Where a plain file is named and is not there, the
# sealed one beside it is meant: whether a host has a TPM is no business of those that sign.
SEALED_NAME = "hsm-pin"
SEALED_SUFFIX = ".cred"


def decryptor(module: Any, option: str = "pin_credential") -> Decrypt | None:
    """How to decrypt a PIN file that is a systemd credential; None for a plain file."""
    name = module.params[option]
    return _decryptor(module, name) if name else None


def stored_pin(module: Any, path: str) -> str:
    """The PIN in a file for which no credential is named: in it, or sealed beside it."""
    if is_sealed(path):
        return load_pin(path + SEALED_SUFFIX, _decryptor(module, SEALED_NAME))
    return load_pin(path)


def is_sealed(path: str) -> bool:
    """Whether there is no such file and a sealed one beside it."""
    return not os.path.exists(path) and os.path.exists(path + SEALED_SUFFIX)


def _decryptor(module: Any, name: str) -> Decrypt:
    def decrypt(path: str) -> str:
        rc, out, err = module.run_command(["systemd-creds", "decrypt", f"--name={name}", path, "-"])
        if rc != 0:
            raise Pkcs11Error(
                "PIN_FILE",
                f"{path} cannot be decrypted as credential {name!r}: {str(err).strip()}.",
                "write it again on this host with systemd-creds encrypt: a credential opens only where it was made.",
            )
        return str(out)

    return decrypt


# The PCR for debugging, into which nothing is measured: an update of the firmware must not keep the gateway from starting. What systemd
# 252 seals to no PCR at all, it cannot open ("TPM2 PCR bank invalid").
UNMEASURED_PCR = 16


def sealing_keys(module: Any) -> list[list[str]]:
    """What a PIN can be encrypted with, best first: the host's TPM 2, which a copy of the disk lacks, or a key on the disk."""
    rc, _out, _err = module.run_command(["systemd-creds", "has-tpm2"])
    tpm = [["--with-key=tpm2", f"--tpm2-pcrs={UNMEASURED_PCR}"]] if rc == 0 else []
    return [*tpm, ["--with-key=host"]]


def encryptor(module: Any, option: str = "pin_credential") -> Encrypt | None:
    """How to make an encrypted PIN file; None for a plain one. The PIN goes through a pipe, never the command line."""
    name = module.params[option]
    if not name:
        return None

    def encrypt(pin: str, path: str) -> None:
        rc, err = 1, ""
        for key in sealing_keys(module):
            command = ["systemd-creds", "encrypt", *key, f"--name={name}", "-", path]
            rc, _out, err = module.run_command(command, data=pin, binary_data=True, umask=0o077)
            if rc == 0:
                rc, err = _opened(module, name, path, pin)
            if rc == 0:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if rc != 0:
            raise Pkcs11Error(
                "PIN_FILE",
                f"{path} cannot be made as credential {name!r}: {str(err).strip()}.",
                "use a plain PIN file where systemd is older than 250 or has no host key.",
            )

    return encrypt


def _opened(module: Any, name: str, path: str, pin: str) -> tuple[int, str]:
    """Whether what was just sealed can be opened: a PIN that is lost is a token that is lost."""
    try:
        found = _decryptor(module, name)(path)
    except Pkcs11Error as error:
        return 1, str(error)
    return (0, "") if found == pin else (1, "it opens as something else")


@contextlib.contextmanager
def as_user(name: str | None) -> Iterator[None]:
    """Be another user for a while: SoftHSM's files belong to the user that creates them."""
    if not name:
        yield
        return
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise Pkcs11Error(
            "USER", f"there is no user {name!r} on this host.", "create it, or correct user."
        ) from error
    if os.geteuid() == entry.pw_uid:
        yield
        return
    if os.geteuid() != 0:
        raise Pkcs11Error(
            "USER", f"only root can act as {name!r}.", "set become: true on the task."
        )
    groups, gid = os.getgroups(), os.getegid()
    os.initgroups(name, entry.pw_gid)
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def pin_of(module: Any) -> str:
    """The PIN that the module was pointed to."""
    decrypt = decryptor(module)
    path = module.params["pin_file"]
    return load_pin(path, decrypt) if decrypt else stored_pin(module, path)


@contextlib.contextmanager
def library_of(module: Any) -> Iterator[Library]:
    """The PKCS#11 library, opened as the user that owns the token."""
    with as_user(module.params["user"]), open_library(module.params["module_path"]) as library:
        yield library


@contextlib.contextmanager
def session_of(module: Any) -> Iterator[Session]:
    """A session on the module's token, logged in with the PIN of its file."""
    pin = pin_of(module)
    with library_of(module) as library, library.session(module.params["token"], pin) as session:
        yield session


def run(module: Any, work: Callable[[Any], dict[str, Any]]) -> None:
    """Run the module's work; every failure that we understand comes out with its code and remedy."""
    try:
        result = work(module)
    except Pkcs11Error as failure:
        module.fail_json(msg=str(failure), code=failure.code, remedy=failure.remedy)
    else:
        module.exit_json(**result)


def token_result(token: TokenInfo) -> dict[str, Any]:
    """A token as a module result."""
    return asdict(token)


def key_result(key: Key) -> dict[str, Any]:
    """A key as a module result; the public key is empty for kinds that we cannot use."""
    usable = bool(key.public.point or key.public.modulus)
    return {
        "label": key.label,
        "id": key.key_id,
        "kind": key.public.spec,
        "attributes": key.attributes,
        "weaknesses": key.weaknesses,
        "public_key": public_pem(key.public) if usable else "",
    }
