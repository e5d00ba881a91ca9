"""Write a command's output directory: complete, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseek_serving.artifacts.manifest import canonical_json
from deepseek_serving.errors import ServingError

# for the graph without its weights, and the records
SMALL_FILES = 16 * 2**20


def refuse_existing(out: Path, error: type[ServingError]) -> None:
    """Raise `error` unless a new directory can take the place of `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise error(f"{out}: exists already; name a directory that does not")


def refuse_without_space(out: Path, needed: int, error: type[ServingError]) -> None:
    """Raise `error` unless `needed` bytes and the small files fit where `out` will be."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = needed + SMALL_FILES, shutil.disk_usage(place).free
    if free < needed:
        raise error(
            f"{out}: {needed} bytes are needed, and {place} has {free} bytes free; free some "
            "space, or name a directory on a larger file system"
        )


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory that becomes `out` when all went well, and is gone otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        partial.chmod(0o755)
        yield partial
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write canonical JSON: the same value gives the same bytes."""
    path.write_bytes(canonical_json(value))
