# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records on the release host: a file for each model, replaced as a whole, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from ..artifacts.files import write_file
from .record import MAX_BYTES, Record, RecordError, check_model, from_json, to_json

LOCK_SECONDS = 10.0
_SUFFIX = ".json"


class StaleError(Exception):
    """Somebody else has ordered something since the record was read."""


def models(directory: str) -> list[str]:
    """Models that have a record, sorted."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(name.removesuffix(_SUFFIX) for name in names if _is_record(name))


def read(directory: str, model: str) -> Record:
    """Read the record of a model; one that never had a canary is idle. Raises RecordError, OSError."""
    path = _path(directory, model)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Record(model)
    record = from_json(data)
    if record.model != model:
        raise RecordError(f"{path} is the record of {record.model}")
    return record


def change(
    directory: str, model: str, change_it: Callable[[Record], Record], fencing: int | None = None
) -> Record:
    """Replace a record by what a function makes of the present one, and return that.

    With a fencing number the present record must have it. Raises StaleError if it does not, or if another process holds the
    record for too long; RecordError, OSError, and what the function raises: then nothing is changed.
    """
    with _lock(_path(directory, model)[: -len(_SUFFIX)] + ".lock"):
        present = read(directory, model)
        if fencing is not None and present.fencing != fencing:
            raise StaleError(
                f"the record of {model} has order {present.fencing}, not {fencing}: somebody else steers the rollout"
            )
        wanted = change_it(present)
        if wanted != present:
            write_file(_path(directory, model), to_json(wanted))
        return wanted


def _path(directory: str, model: str) -> str:
    return os.path.join(directory, check_model(model) + _SUFFIX)


def _is_record(name: str) -> bool:
    if not name.endswith(_SUFFIX):
        return False
    with contextlib.suppress(RecordError):
        return bool(check_model(name.removesuffix(_SUFFIX)))
    return False


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StaleError(
                        f"another process holds {path} for over {LOCK_SECONDS:g} s"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
