"""How many threads an engine gets that was given no number."""

from __future__ import annotations

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def cores(directory: Path = CPUS) -> int:
    """The cores that this process may run on; the hardware threads of one core count once.

    ONNX Runtime's own default counts the whole machine, and ties its threads to all of it, also
    where the process was given a part
    (https://onnxruntime.ai/docs/performance/tune-performance/threading.html).
    """
    return len({_siblings(directory, cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(directory: Path, cpu: int) -> str:
    try:
        return (directory / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)
