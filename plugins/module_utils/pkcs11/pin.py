# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PINs: refused before they cost a try on the token, read from files, and made."""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import stat
from collections.abc import Callable

from .objects import Pkcs11Error, TokenInfo


def refused_login(path: str, token: TokenInfo, reason: str) -> Pkcs11Error:
    """The refusal to try a PIN, with the way out: programs that are where tokens are."""
    variables = [f"{name}={os.environ[name]}" for name in ("SOFTHSM2_CONF",) if name in os.environ]
    tool = ["pkcs11-tool", "--module", path, "--token-label", token.label]
    command = ["sudo", "-u", pwd.getpwuid(os.geteuid()).pw_name, *variables, *tool]
    if token.pin_locked:
        return Pkcs11Error(
            "PIN_LOCKED",
            f"no PIN was tried on token {token.label!r}, because {reason}.",
            f"as security officer run {shlex.join([*command, '--init-pin', '--login', '--login-type', 'so'])}, "
            "and write the new PIN into the PIN file.",
        )
    return Pkcs11Error(
        "PIN_COUNT_LOW",
        f"no PIN was tried on token {token.label!r}, because {reason}.",
        f"correct the PIN file, then log in once by hand: {shlex.join([*command, '--login', '--list-objects'])} "
        "asks for the PIN. The right one resets the count.",
    )


def check_pin(pin: str, origin: str) -> str:
    """Refuse what would burn a try on the token: an empty PIN, or one with white space around it."""
    if not pin:
        raise Pkcs11Error(
            "PIN_FILE",
            f"{origin} is empty.",
            "write the PIN into it, without a newline at the end.",
        )
    if pin != pin.strip():
        raise Pkcs11Error(
            "PIN_FILE",
            f"{origin} has white space or a newline around the PIN, which the token would take as part of it.",
            "rewrite it without, for example with printf %s.",
        )
    if not pin.isprintable():
        raise Pkcs11Error(
            "PIN_FILE",
            f"{origin} holds characters that cannot be printed, which are no part of a PIN.",
            "write the PIN into it as text, for example with printf %s.",
        )
    return pin


def read_pin(path: str) -> str:
    """The PIN in a file that others cannot read."""
    try:
        with open(path, encoding="utf-8") as handle:
            if stat.S_IMODE(os.fstat(handle.fileno()).st_mode) & stat.S_IRWXO:
                raise Pkcs11Error(
                    "PIN_FILE",
                    f"{path} can be read by everyone.",
                    "chmod 0400 it and change the PIN.",
                )
            return check_pin(handle.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise Pkcs11Error(
            "PIN_FILE", f"{path} cannot be read: {error}.", "point to the file that holds the PIN."
        ) from error


Decrypt = Callable[[str], str]
Encrypt = Callable[[str, str], None]


def write_new_pin(path: str, encrypt: Encrypt | None = None) -> None:
    """Write a random PIN to a new file for its owner only; with `encrypt` that makes the file."""
    # 24 characters, 144 bits: pkcs11-provider cannot read a PIN of 32 characters or more.
    pin = secrets.token_urlsafe(18)
    if encrypt is not None:
        encrypt(pin, path)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except OSError as error:
        raise Pkcs11Error(
            "PIN_FILE", f"{path} cannot be made: {error}.", "check its directory."
        ) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(pin)


def load_pin(path: str, decrypt: Decrypt | None = None) -> str:
    """The PIN in a plain file, or in a systemd credential if there is a way to decrypt it."""
    if decrypt is None:
        return read_pin(path)
    return check_pin(decrypt(path), path)
