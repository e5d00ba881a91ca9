# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A burn-in of a host's GPUs: what it takes, whether it may run, the process that loads them, and what that measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..common.programs import program_of
from . import load, load_work
from .checks import nvml_answers, subject_of, words_of
from .host import Host
from .snapshot import GRACE_SECONDS, Gpu, Problem, last_line, no_python, reasons_of
from .verdict import HOST, Check, Verdict, check_of

# How long each direction to the host is measured, and copies within the memory.
HOST_SECONDS = 0.5
COPY_SECONDS = 3.0
# The load ends by itself within its limit; its process is killed if it is late by this.
_LATE_SECONDS = 15.0
# At most this many samples of each GPU.
_SAMPLES = 600
LOADED = "products"
FIGURES = (
    "matrix_tflops",
    "copy_gb_per_second",
    "host_to_device_gb_per_second",
    "device_to_host_gb_per_second",
)


@dataclass(frozen=True)
class Settings:
    """How the GPUs are loaded; ``timeout`` is for everything but the products."""

    seconds: float
    matrix_size: int
    memory_fraction: float
    timeout: float


@dataclass(frozen=True)
class Sample:
    """A GPU at one moment, in seconds since the load began; what NVML does not say is None."""

    seconds: float
    phase: str
    temperature_celsius: int | None
    temperature_margin_celsius: int | None
    clock_sm_mhz: int | None
    clock_memory_mhz: int | None
    power_usage_watts: float | None
    throttle_reasons: tuple[str, ...] | None
    pcie_generation: int | None
    pcie_width: int | None


@dataclass(frozen=True)
class Burn:
    """What was measured of one GPU; ``error`` is why that is not all."""

    index: int
    uuid: str
    product: str | None = None
    error: str = ""
    remedy: str = ""
    hangs: bool = False
    phase: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    @property
    def during_load(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.phase == LOADED]


def problems_with(settings: Settings) -> list[str]:
    """What is wrong with how the GPUs shall be loaded."""
    wrong = []
    if not 1 <= settings.seconds <= 86400:
        wrong.append(f"seconds is {settings.seconds:g}, and must be between 1 and 86400")
    if settings.matrix_size % 64 or not 1024 <= settings.matrix_size <= 32768:
        wrong.append(
            f"matrix_size is {settings.matrix_size}, and must be a multiple of 64 between 1024 and 32768"
        )
    if not 0.01 <= settings.memory_fraction <= 0.95:
        wrong.append(
            f"memory_fraction is {settings.memory_fraction:g}, and must be between 0.01 and 0.95"
        )
    if not 1 <= settings.timeout <= 3600:
        wrong.append(f"timeout is {settings.timeout:g}, and must be between 1 and 3600")
    return wrong


def unpack(wheels: Sequence[str], directory: str) -> list[str]:
    """Directories to import from: those that are given, and one with what the wheels hold; raises OSError or BadZipFile."""
    directories = []
    for wheel in wheels:
        if os.path.isdir(wheel):
            directories.append(wheel)
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
        if directory not in directories:
            directories.append(directory)
    return directories


def refusals(host: Host, allow_busy: bool) -> list[Check]:
    """Why the GPUs are not loaded; each of these checks has failed, and if there is none, they may be."""
    return [check for check in _gates(host, allow_busy) if not check.ok]


def _gates(host: Host, allow_busy: bool) -> Iterator[Check]:
    yield check_of(HOST, "nvml", nvml_answers(host))
    if host.snapshot.problem:
        return
    found = len(host.snapshot.gpus)
    yield check_of(HOST, "gpus", Verdict(found > 0, f"NVML lists {found} GPUs", _NO_GPU))
    for gpu, processes in zip(host.snapshot.gpus, host.processes):
        subject = subject_of(gpu)
        if gpu.problem:
            verdict = Verdict(False, gpu.problem.detail, gpu.problem.remedy)
            yield check_of(subject, "nvml", verdict)
            continue
        divided = Verdict(
            not gpu.mig_mode, "MIG is on", "Run the burn-in on whole GPUs, before they are divided."
        )
        yield check_of(subject, "mig", divided)
        if not allow_busy:
            yield check_of(subject, "processes", _idle(gpu, [words_of(one) for one in processes]))


_NO_GPU = "Look at lspci -d 10de: and the kernel log (journalctl --dmesg --grep NVRM)."
_BUSY = "A burn-in disturbs whatever else runs: drain the host and stop its services first, or set allow_busy."


def _idle(gpu: Gpu, processes: Sequence[str]) -> Verdict:
    if gpu.processes is None:
        reason = gpu.errors.get("processes", "no reason is given")
        return Verdict(False, f"NVML does not say which processes use it: {reason}", _BUSY)
    return Verdict(not processes, f"it is in use by {', '.join(processes)}", _BUSY)


def burn(
    python: str, paths: Sequence[str], settings: Settings, gpus: Sequence[Gpu]
) -> list[Burn] | Problem:
    """Load the GPUs and wait until that is over, in no case longer than the settings allow."""
    known = {gpu.index: gpu for gpu in gpus}
    asked = {
        **asdict(settings),
        "paths": list(paths),
        "gpus": [{"index": gpu.index, "uuid": gpu.uuid} for gpu in gpus],
        "host_seconds": HOST_SECONDS,
        "copy_seconds": COPY_SECONDS,
        "interval": max(settings.seconds / _SAMPLES, min(1.0, settings.seconds / 4)),
    }
    limit = settings.seconds + settings.timeout + _LATE_SECONDS
    answers = _answers([python, "-I", "-", json.dumps(asked)], limit)
    if isinstance(answers, Problem):
        return answers
    if "missing" in answers:
        return Problem("missing", answers["missing"], _MISSING)
    return [burn_of(answer, known[answer["index"]].product) for answer in answers["gpus"]]


_MISSING = (
    "Set venv to an environment that has cuda-bindings, nvidia-cublas, nvidia-cuda-nvrtc and nvidia-ml-py, as the serving environment "
    "does with flavour onnxruntime_cuda, or wheels to their wheels on the host."
)
READ_LOG = "Read the kernel log (journalctl --dmesg --grep NVRM) for Xids; drain the host, and restart it if the GPU does not answer."


def _answers(command: Sequence[str], limit: float) -> dict[str, Any] | Problem:
    pipe = subprocess.PIPE
    # compiled code is not kept in a cache of the user's
    environment = {**os.environ, "CUDA_CACHE_DISABLE": "1"}
    program = program_of([load_work, load])
    try:
        process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return no_python(command[0], error)
    try:
        stdout, stderr = process.communicate(program, timeout=limit)
    except subprocess.TimeoutExpired:
        return _hangs(process, limit)
    finally:
        _kill_all(process)
    try:
        answers = json.loads(stdout)
    except ValueError:
        return Problem(
            "crash",
            f"the load ended with status {process.returncode}: {last_line(stderr)}",
            READ_LOG,
        )
    return dict(answers)


def _kill_all(load: subprocess.Popen[bytes]) -> None:
    """End the load and the processes that it started; mostly there are none any more."""
    try:
        os.killpg(load.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _hangs(load: subprocess.Popen[bytes], limit: float) -> Problem:
    _kill_all(load)
    try:
        said = load.communicate(timeout=GRACE_SECONDS)[1]
    except subprocess.TimeoutExpired as still:
        said = still.stderr or b""
    return Problem(
        "timeout",
        f"the load did not end within {limit:g} seconds and was killed; its last step was: {last_line(said) or 'to begin'}",
        READ_LOG,
    )


def burn_of(answer: Mapping[str, Any], product: str | None) -> Burn:
    """Give what the load says of one GPU its types."""
    return Burn(
        index=answer["index"],
        uuid=answer["uuid"],
        product=product,
        error=answer.get("error", ""),
        remedy=answer.get("remedy", ""),
        hangs=answer.get("hangs", False),
        phase=answer["phase"],
        figures=answer.get("result", {}),
        samples=tuple(_sample(sample) for sample in answer["samples"]),
    )


def _sample(answer: Mapping[str, Any]) -> Sample:
    power, reasons = answer["power_usage"], answer["throttle_reasons"]
    return Sample(
        seconds=answer["seconds"],
        phase=answer["phase"],
        temperature_celsius=answer["temperature"],
        temperature_margin_celsius=answer["temperature_margin"],
        clock_sm_mhz=answer["clock_sm_mhz"],
        clock_memory_mhz=answer["clock_memory_mhz"],
        power_usage_watts=None if power is None else power / 1000,
        throttle_reasons=None if reasons is None else reasons_of(reasons),
        pcie_generation=answer["pcie_generation"],
        pcie_width=answer["pcie_width"],
    )


def facts(burns: Sequence[Burn] | Problem) -> list[dict[str, Any]]:
    """What was measured, as a module's result."""
    if isinstance(burns, Problem):
        return []
    return [
        {
            "index": burn.index,
            "uuid": burn.uuid,
            "product": burn.product,
            "error": burn.error,
            **{name: burn.figures.get(name) for name in _RESULTS},
            "samples": [asdict(sample) for sample in burn.samples],
        }
        for burn in burns
    ]


_RESULTS = (
    *FIGURES,
    "rates",
    "iterations",
    "mismatches",
    "first_mismatch",
    "checksum",
    "inspected",
    "wrong",
    "copy_equal",
    "host_equal",
    "memory_bytes",
    "multiprocessors",
    "cublas",
)
