"""Readings of bodies that only tests have; the process that judges imports no more than this."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """Reads nothing, and says which process it is."""

    def read(self, data: bytes) -> tuple[int, int]:
        return os.getpid(), len(data)


@dataclass(frozen=True)
class Wicked:
    """What a library might do with a body that nobody foresaw."""

    does: str

    def read(self, data: bytes) -> object:
        if self.does == "spin":
            while True:
                pass
        if self.does == "hoard":
            return bytearray(2**40)
        if self.does == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
        return None
