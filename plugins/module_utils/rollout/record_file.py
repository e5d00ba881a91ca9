# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records on the release host: a file for each model, replaced as a whole, by one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ..artifacts.files import write_file
from ..common.file_lock import file_lock
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

    A fencing number must be that of the present record. Raises StaleError if it is not, or if another process holds the
    record for too long; RecordError, OSError, and what the function raises: then nothing is changed.
    """
    lock = _path(directory, model).removesuffix(_SUFFIX) + ".lock"
    busy = StaleError(f"another process holds {lock} for over {LOCK_SECONDS:g} s")
    with file_lock(lock, LOCK_SECONDS, busy):
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
