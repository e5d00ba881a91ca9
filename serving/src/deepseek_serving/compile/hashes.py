"""SHA-256 of large files, remembered for as long as they are the same files."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from deepseek_serving.artifacts.hashing import sha256_file
from deepseek_serving.artifacts.names import ArtifactError

# A file that is still being written keeps its time stamp for as long as the clock's tick.
SETTLED_NS = 2 * 10**9


class HashCache:
    """Hashes by path, size, time of change (in ns) and inode; a cache that is damaged is empty."""

    def __init__(self, path: Path | None, *, force: bool = False) -> None:
        self._path = path
        self._force = force
        self._changed = False
        self._known = {} if path is None else _read(path)
        self.hashed_bytes = 0

    def sha256(self, path: Path) -> str:
        """Raises OSError."""
        place, stat = str(path.resolve()), path.stat()
        identity = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(place)
        if not self._force and known is not None and known.get("identity") == identity:
            return str(known["sha256"])
        try:
            digest = sha256_file(place)
        except ArtifactError as error:
            raise OSError(str(error)) from error
        self.hashed_bytes += stat.st_size
        if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            self._known[place] = {"identity": identity, "sha256": digest}
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep what was hashed; without it the next run takes longer, so a failure is no error."""
        if self._path is None or not self._changed:
            return
        with contextlib.suppress(OSError):
            present = {p: entry for p, entry in self._known.items() if os.path.exists(p)}
            descriptor, name = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(present, file, indent=1, sort_keys=True)
            os.replace(name, self._path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {
        place: entry
        for place, entry in known.items()
        if isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
    }
