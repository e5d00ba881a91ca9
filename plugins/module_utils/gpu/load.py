# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a load on every GPU at once for a limited time, measure it, and print what was measured as JSON.

It runs as a process of its own (:func:`..common.programs.program_of`), by whichever Python has NVIDIA's bindings (``cuda-bindings``
and ``pynvml``): so it and what it imports need the standard library only. Each GPU has a process, since a driver that hangs or a
library that crashes must not take the figures of the other GPUs along; this process asks NVML meanwhile. Before each step it says
on standard error which one it is; the last of them is where a load that hangs stopped.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from threading import BrokenBarrierError
from typing import Any

from .load_work import Gpu, Libraries, LoadError, MissingError, Products, Result, copies, host_link

Say = Callable[[str], None]
# What is asked of NVML during the load -> its function and what it takes besides the GPU, as in gpu_nvml.
SAMPLES: dict[str, tuple[Any, ...]] = {
    "temperature": ("nvmlDeviceGetTemperature", 0),
    "temperature_margin": ("nvmlDeviceGetMarginTemperature",),
    "clock_sm_mhz": ("nvmlDeviceGetClockInfo", 1),
    "clock_memory_mhz": ("nvmlDeviceGetClockInfo", 2),
    "power_usage": ("nvmlDeviceGetPowerUsage",),
    "throttle_reasons": ("nvmlDeviceGetCurrentClocksThrottleReasons",),
    "pcie_generation": ("nvmlDeviceGetCurrPcieLinkGeneration",),
    "pcie_width": ("nvmlDeviceGetCurrPcieLinkWidth",),
}


class Together:
    """Where the processes of all GPUs wait for each other; without one of them, the others go on by themselves."""

    def __init__(self, barrier: Any, patience: float) -> None:
        self._barrier = barrier
        self._patience = patience

    def meet(self) -> None:
        try:
            self._barrier.wait(self._patience)
        except BrokenBarrierError:
            return


def work(
    libraries: Libraries, settings: Result, place: int, together: Together, tell: Say
) -> Result:
    """Measure one GPU; raises LoadError."""
    n, count = settings["matrix_size"], len(settings["gpus"])
    tell("start")
    gpu = Gpu(libraries, settings["gpus"][place]["uuid"])
    result: Result = {"multiprocessors": gpu.multiprocessors, "cublas": gpu.blas_version}
    # one after another: GPUs may share the way to the host's memory
    for turn in range(count):
        tell("wait")
        together.meet()
        if turn == place:
            tell("host link")
            result.update(host_link(gpu, settings["host_seconds"]))
    size = int(gpu.free_bytes() * settings["memory_fraction"])
    if size < 4 * 2 * n * n:
        raise LoadError(
            f"{size} bytes of memory are too few for four matrices of {n} by {n} bf16 numbers",
            "Raise memory_fraction, or lower matrix_size.",
        )
    with gpu.memory(size) as memory:
        tell("wait")
        together.meet()
        tell("copy")
        result.update(copies(gpu, memory, size, settings["copy_seconds"]))
        products = Products(gpu, memory, size, n)
        result.update(products.first())
        tell("wait")
        together.meet()
        tell("products")
        result.update(products.run(settings["seconds"], settings["interval"]))
        tell("end")
    return {**result, "memory_bytes": size}


def worker(
    libraries: Libraries, settings: Result, place: int, barrier: Any, pipe: Connection
) -> None:
    """What the process of one GPU does: it ends with its result or with the reason for having none."""
    # standard output is for the answer, whatever a library has to say
    os.dup2(2, 1)
    together = Together(barrier, settings["timeout"] / 2)
    try:
        result = work(
            libraries, settings, place, together, lambda phase: pipe.send(("phase", phase))
        )
        pipe.send(("result", result))
    except LoadError as error:
        pipe.send(("remedy", error.remedy))
        pipe.send(("error", str(error)))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


class Load:
    """The processes of all GPUs, seen from the one that started them."""

    def __init__(self, libraries: Libraries, settings: Result, say: Say) -> None:
        self._settings, self._say = settings, say
        fork = multiprocessing.get_context("fork")
        count = len(settings["gpus"])
        self._barrier = fork.Barrier(count)
        self.answers: list[Result] = [{"phase": "start"} for _gpu in range(count)]
        self.processes = []
        self._pipes: dict[Connection, int] = {}
        for place in range(count):
            ours, theirs = fork.Pipe(duplex=False)
            process = fork.Process(
                target=worker, args=(libraries, settings, place, self._barrier, theirs)
            )
            process.start()
            # its end is only seen if nobody else holds the pipe
            theirs.close()
            self.processes.append(process)
            self._pipes[ours] = place

    def listen(self, seconds: float) -> bool:
        """Take in what the processes say for some seconds; False once all have ended."""
        until = time.monotonic() + seconds
        while self._pipes:
            left = until - time.monotonic()
            if left <= 0:
                return True
            for pipe in wait(list(self._pipes), left):
                if isinstance(pipe, Connection):
                    self._take(pipe)
        return False

    def _take(self, pipe: Connection) -> None:
        place = self._pipes[pipe]
        answer = self.answers[place]
        try:
            kind, value = pipe.recv()
        except EOFError:
            del self._pipes[pipe]
            self._ended(place)
            return
        answer[kind] = value
        if kind == "phase":
            self._say(f"GPU {self._settings['gpus'][place]['index']}: {value}")

    def _ended(self, place: int) -> None:
        self.processes[place].join(1)
        answer = self.answers[place]
        if "result" not in answer:
            status = self.processes[place].exitcode
            answer.setdefault("error", f"its process ended with status {status}")
            # nobody shall wait for it
            self._barrier.abort()

    def give_up(self) -> None:
        """What has not ended is killed; a process that waits in the driver may not even end then."""
        for place in self._pipes.values():
            self.processes[place].kill()
            self.answers[place].setdefault("error", "it did not end in time")
            self.answers[place]["hangs"] = True


def sample(nvml: Any, handle: Any) -> Result:
    """What NVML says of one GPU now; what it does not say is null."""
    answers = {}
    for name, (function, *arguments) in SAMPLES.items():
        try:
            answers[name] = getattr(nvml, function)(handle, *arguments)
        except (nvml.NVMLError, AttributeError):
            answers[name] = None
    return answers


def run(settings: Result, say: Say) -> Result:
    """Load all GPUs, ask NVML meanwhile, and give both."""
    began = time.monotonic()
    try:
        nvml = importlib.import_module("pynvml")
        say("loading the libraries")
        libraries = Libraries()
    except (ImportError, MissingError) as error:
        return {"missing": str(error)}
    load = Load(libraries, settings, say)
    # after the processes were started: NVML's state must not be shared with them
    nvml.nvmlInit()
    handles = [nvml.nvmlDeviceGetHandleByIndex(gpu["index"]) for gpu in settings["gpus"]]
    samples: list[list[Result]] = [[] for _handle in handles]
    limit = began + settings["seconds"] + settings["timeout"]
    while load.listen(settings["interval"]):
        now = time.monotonic()
        if now >= limit:
            load.give_up()
            break
        for handle, answer, taken in zip(handles, load.answers, samples):
            head = {"seconds": round(now - began, 3), "phase": answer["phase"]}
            taken.append({**head, **sample(nvml, handle)})
    return {
        "gpus": [
            {**gpu, **answer, "samples": taken}
            for gpu, answer, taken in zip(settings["gpus"], load.answers, samples)
        ]
    }


def main(arguments: Sequence[str]) -> None:
    """Run with settings in JSON, and with the bindings of this Python or of the directories in ``paths``."""
    settings = json.loads(arguments[0])
    sys.path[:0] = settings["paths"]

    def say(step: str) -> None:
        sys.stderr.write(f"{step}\n")
        sys.stderr.flush()

    answers = run(settings, say)
    json.dump(answers, sys.stdout)
    sys.stdout.flush()
    # without waiting for a process that cannot be killed
    os._exit(0)
