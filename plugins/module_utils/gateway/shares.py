# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shares of canaries at a gateway: what HAProxy does now, and what it will read at its next start.

A share is in thousandths of a model's requests. HAProxy has it in a map (Management Guide, section 9.3: `show map`, `add map`, `set map`),
which it reads from a file when it starts; a change is made in both. Whatever breaks off between the two leaves the lower share for the
next start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ..common.file_lock import file_lock
from .certificate import write
from .runtime_api import HaproxyError, ask
from .servers import OF_A_MODEL, ServersError, servers_of

SOCKET = "/run/deepseek-gateway/admin.sock"
MAP = "/var/lib/deepseek/gateway/shares.map"
# A release that stays can take all of its requests again while it has at least half of them.
MOST = 500
# For one change at a time: what holds the lock asks HAProxy, which answers or times out long before.
LOCK_SECONDS = 60.0


class ShareError(Exception):
    """The share is not, or not for certain, what was wanted; the message says what it is instead."""


def shares_of(control: str, path: str) -> dict[str, int]:
    """Give the share of each model as HAProxy has it; one that is not there has none.

    Raises HaproxyError where HAProxy does not answer, and ShareError where it does not know the map or has no number in it.
    """
    answer = ask(control, f"show map {path}")
    found = {}
    for line in answer.splitlines():
        # 0x5581d5a0 MODEL THOUSANDTHS
        words = line.split()
        if len(words) != 3 or not words[0].startswith("0x") or not words[2].isdecimal():
            raise ShareError(f"{control} says of {path}: {' '.join(answer.split())}")
        found[words[1]] = int(words[2])
    return found


def written_in(path: str) -> dict[str, int]:
    """Give the shares that a file has, which the next start begins with. Raises ShareError where it cannot be read."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        pairs = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        return {model: int(thousandths) for model, thousandths in pairs}
    except (OSError, ValueError) as error:
        raise ShareError(f"{path} cannot be read: {error}") from error


def has_canary(control: str, model: str) -> bool:
    """Whether HAProxy has a server without weight for a model: nothing but a share sends requests to it."""
    return any(
        server.backend == OF_A_MODEL + model and server.is_canary
        for server in servers_of(control).values()
    )


def _write(path: str, model: str, thousandths: int) -> None:
    try:
        shares = written_in(path)
    except ShareError:
        # what cannot be read must not outlive a share that was lowered
        shares = {}
    shares[model] = thousandths
    lines = [f"{name} {share}\n" for name, share in sorted(shares.items())]
    write(path, "# model, thousandths of its requests\n" + "".join(lines))


def _tell(control: str, path: str, model: str, thousandths: int, known: Mapping[str, int]) -> None:
    """Change the running HAProxy, and ask it what it has then."""
    order = "set" if model in known else "add"
    said = ask(control, f"{order} map {path} {model} {thousandths}")
    found = shares_of(control, path).get(model, 0)
    if found != thousandths:
        raise ShareError(
            f"{control} has {found} thousandths for {model} instead of {thousandths}: {said or 'it gave no reason'}"
        )


def set_share(control: str, path: str, model: str, thousandths: int) -> None:
    """Have HAProxy send so many thousandths of a model's requests to its canary, now and after each start.

    Raises ShareError, HaproxyError or OSError on any doubt. A share that was to be raised is then what it was before, as far as HAProxy
    answers; one that was to be lowered is lower wherever that was possible: in the file without HAProxy, in HAProxy without the file.
    """
    if not 0 <= thousandths <= MOST:
        raise ShareError(f"a share is 0 to {MOST} thousandths, and not {thousandths}")
    lock = str(Path(path).with_suffix(".lock"))
    busy = ShareError(f"another change holds {lock} for over {LOCK_SECONDS:g} s")
    with file_lock(lock, LOCK_SECONDS, busy):
        try:
            known = shares_of(control, path)
        except (HaproxyError, ShareError):
            if thousandths == 0:
                _write(path, model, 0)
            raise
        present = known.get(model, 0)
        if thousandths > present:
            _raise(control, path, model, thousandths, known)
        else:
            _lower(control, path, model, thousandths, known)


def _raise(control: str, path: str, model: str, thousandths: int, known: Mapping[str, int]) -> None:
    if not has_canary(control, model):
        raise ShareError(f"{control} has no canary for the model {model}: apply the role gateway")
    try:
        _tell(control, path, model, thousandths, known)
        _write(path, model, thousandths)
    except (HaproxyError, ShareError, OSError):
        before = known.get(model, 0)
        with contextlib.suppress(HaproxyError, ShareError):
            _tell(control, path, model, before, shares_of(control, path))
        raise


def _lower(control: str, path: str, model: str, thousandths: int, known: Mapping[str, int]) -> None:
    try:
        _write(path, model, thousandths)
    finally:
        # without the file as well
        if known.get(model, 0) != thousandths:
            _tell(control, path, model, thousandths, known)


def main() -> int:
    """Read or set a share: `deepseek-gateway-share get`, `deepseek-gateway-share set MODEL THOUSANDTHS`."""
    parser = argparse.ArgumentParser(description="Shares of canaries at this gateway.")
    parser.add_argument("--socket", default=SOCKET, help="HAProxy's runtime socket")
    parser.add_argument("--map", default=MAP, help="the file that HAProxy starts with")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("get", help="print what HAProxy has, as JSON")
    setting = actions.add_parser("set", help="set the share of a model, and read it back")
    setting.add_argument("model")
    setting.add_argument("thousandths", type=int, help=f"0 to {MOST}")
    given = parser.parse_args()
    try:
        if given.action == "set":
            set_share(given.socket, given.map, given.model, given.thousandths)
        sys.stdout.write(
            json.dumps(shares_of(given.socket, given.map), sort_keys=True) + os.linesep
        )
    except (ShareError, ServersError, HaproxyError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
