# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask the gateway over TLS as a client does, and restart it when its token went away and came back.

A process whose token was gone does not find its key again; only a new process does. A restart costs one login, so it
is left undone while the token is away, and systemd's limit on starts bounds how often it is tried.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..pkcs11.arguments import as_user
from ..pkcs11.objects import Pkcs11Error
from ..pkcs11.pin import refused_login
from ..pkcs11.session import Library, open_library
from .certificate import CertificateError, Listener, probe

AGAIN_SECONDS = 2


@dataclass(frozen=True)
class Outcome:
    """What was found: whether the gateway answers, whether it shall be restarted, and why."""

    healthy: bool
    restart: bool
    reason: str


def check_token(library: Library, label: str) -> None:
    """Raise unless the token is there and a login may be tried; nothing is tried here."""
    token = library.token(label)
    if token.unattended_refusal is not None:
        raise refused_login(library.path, token, token.unattended_refusal)


def look(ask: Callable[[], object], token: Callable[[], None], wait: Callable[[], None]) -> Outcome:
    """Ask twice; when nothing answers, a token that can be used is a reason to restart."""
    try:
        try:
            ask()
        except CertificateError:
            wait()
            ask()
    except CertificateError as error:
        try:
            token()
        except Pkcs11Error as missing:
            return Outcome(False, False, f"{error} The token cannot be used either: {missing}")
        return Outcome(False, True, f"{error} The token is there, so the process is started again.")
    return Outcome(True, False, "")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--server-name", required=True)
    parser.add_argument("--ca-file", required=True)
    parser.add_argument("--module-path", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--unit", required=True)
    return parser.parse_args()


def main() -> int:
    """Exit with 0 if the gateway answers, with 1 if not; restart it where that can help."""
    options = arguments()
    listener = Listener(options.address, options.port, options.server_name, options.ca_file)

    def token() -> None:
        with as_user(options.user), open_library(options.module_path) as library:
            check_token(library, options.token)

    outcome = look(lambda: probe(listener), token, lambda: time.sleep(AGAIN_SECONDS))
    if outcome.healthy:
        return 0
    sys.stderr.write(outcome.reason + "\n")
    if outcome.restart:
        # refused by systemd when the unit was started too often of late
        subprocess.run(["/usr/bin/systemctl", "restart", "--no-block", options.unit], check=False)
    return 1
