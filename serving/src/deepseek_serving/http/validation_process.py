"""The process that judges large bodies: bounded in memory and time, and no great loss.

It reads one body after the other from its standard input, and writes what each of them asks for.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.validation import Reading

LENGTH_BYTES = 8
# characters of a text that the service reads at once: its event loop has others
PIECE = 2**18
# of address space, with all that Python takes
MEMORY = 768 * 2**20
# of resident memory: a process that took more for a body is not kept
KEPT_MEMORY = 160 * 2**20
# of the processor, for one body
SECONDS = 1.0
NICE = 10


def judged(reading: Reading, data: bytes) -> object:
    """What a body asks for, or a RefusedError."""
    try:
        return reading.read(data)
    except RefusedError as error:
        return error
    except (MemoryError, RecursionError):
        return RefusedError(
            "The request body takes more memory than it may.", code="request_too_complex"
        )


class _Pickler(pickle.Pickler):
    """Leaves long texts out."""

    def __init__(self, sink: BinaryIO) -> None:
        super().__init__(sink, pickle.HIGHEST_PROTOCOL)
        self.texts: list[str] = []

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, str) or len(obj) <= PIECE:
            return None
        self.texts.append(obj)
        return len(self.texts) - 1


def _parted(value: object) -> tuple[list[str], bytes]:
    """Long texts, and all else."""
    sink = io.BytesIO()
    pickler = _Pickler(sink)
    pickler.dump(value)
    return pickler.texts, sink.getvalue()


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def _packed(value: object) -> Iterator[bytes]:
    """In frames: of how many pieces each long text is, the pieces, and all else."""
    try:
        texts, rest = _parted(value)
    except (MemoryError, RecursionError):
        error = RefusedError("The request body is too complex.", code="request_too_complex")
        texts, rest = _parted(error)
    pieces = [range(0, len(text), PIECE) for text in texts]
    yield _frame(pickle.dumps([len(begins) for begins in pieces]))
    for text, begins in zip(texts, pieces, strict=True):
        for begin in begins:
            yield _frame(text[begin : begin + PIECE].encode("utf-8"))
    yield _frame(rest)


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH_BYTES)
    return source.read(int.from_bytes(head, "big")) if len(head) == LENGTH_BYTES else None


def _grown() -> bool:
    """Not by getrusage(2), which counts what the service had when it started this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    highest = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return highest is not None and int(highest[1]) * 1024 > KEPT_MEMORY


def work(source: BinaryIO, sink: BinaryIO, is_grown: Callable[[], bool] = _grown) -> None:
    """Judge bodies until there are no more, or until one has taken memory that stays."""
    while (reading := _read(source)) is not None and (data := _read(source)) is not None:
        # its default action ends the process
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        # written by the service that started this process
        found = judged(pickle.loads(reading), data)  # noqa: S301
        del data
        sink.writelines(_packed(found))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.flush()
        del reading, found
        if is_grown():
            return


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # requests that are answered come first; systemd may forbid to say so
    with contextlib.suppress(OSError):
        os.nice(NICE)
    # A terminal and systemd tell all processes to end; the service may need this one until it has.
    # Then there is no more input.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    gc.disable()
    work(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
