# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Load every GPU of a host for a limited time, and judge what was measured.

What was not measured is never taken for good, and a product of which nothing is known passes only by figures that its
owner gives.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from . import load as load_program
from .checks import COOLING, THROTTLE, is_of, nvml_answers, subject_of, words_of
from .datasheets import DATASHEETS, LANE, Datasheet
from .expectations import AMOUNT, COUNT, MODE, REASONS, WHOLES, Kind, amount_or, values_of
from .host import Host
from .snapshot import GRACE_SECONDS, Gpu, Problem, last_line, no_python, reasons_of
from .verdict import HOST, Check, Verdict, check_of
from .xid import Xid

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
class Expectations:
    """What a burn-in must reach; None is not judged."""

    matrix_tflops: float | Literal["datasheet"] | None = "datasheet"
    matrix_fraction: float | Literal["product"] = "product"
    matrix_spread: float | None = 0.1
    copy_gb_per_second: float | Literal["datasheet"] | None = "datasheet"
    copy_fraction: float | Literal["product"] = "product"
    copy_spread: float | None = 0.05
    host_to_device_gb_per_second: float | Literal["link"] | None = "link"
    device_to_host_gb_per_second: float | Literal["link"] | None = "link"
    link_fraction: float = 0.6
    throttle_reasons: tuple[str, ...] | None = ("gpu_idle", "sw_power_cap")
    temperature_celsius: float | None = None
    temperature_margin_celsius: float | None = 3
    ecc_uncorrected: int | None = 0
    ecc_corrected: int | None = None
    row_remap: bool | None = True
    xids: tuple[int, ...] | None = ()


_KINDS: dict[str, Kind] = {
    "matrix_tflops": amount_or("datasheet"),
    "matrix_fraction": amount_or("product"),
    "matrix_spread": AMOUNT,
    "copy_gb_per_second": amount_or("datasheet"),
    "copy_fraction": amount_or("product"),
    "copy_spread": AMOUNT,
    "host_to_device_gb_per_second": amount_or("link"),
    "device_to_host_gb_per_second": amount_or("link"),
    "link_fraction": AMOUNT,
    "throttle_reasons": REASONS,
    "temperature_celsius": AMOUNT,
    "temperature_margin_celsius": AMOUNT,
    "ecc_uncorrected": COUNT,
    "ecc_corrected": COUNT,
    "row_remap": MODE,
    "xids": WHOLES,
}
# How a figure is expected, not whether: without it, the default is in force.
_FRACTIONS = ("matrix_fraction", "copy_fraction", "link_fraction")


def expectations_of(given: Any) -> Expectations:
    """The default expectations with those that are given in their place; raises ExpectationsError."""
    values = values_of(given, _KINDS)
    return replace(
        Expectations(),
        **{
            name: value
            for name, value in values.items()
            if value is not None or name not in _FRACTIONS
        },
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


def unpack(wheels: Sequence[str], folder: str) -> list[str]:
    """Folders to import from: those that are given, and one with what the wheels hold; raises OSError or BadZipFile."""
    folders = []
    for wheel in wheels:
        if os.path.isdir(wheel):
            folders.append(wheel)
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        if folder not in folders:
            folders.append(folder)
    return folders


# Whether GPUs may be loaded at all.


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


# The load.


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
_LOOK = "Read the kernel log (journalctl --dmesg --grep NVRM) for Xids; drain the host, and restart it if the GPU does not answer."


def _answers(command: Sequence[str], limit: float) -> dict[str, Any] | Problem:
    pipe = subprocess.PIPE
    # compiled code is not kept in a cache of the user's
    environment = {**os.environ, "CUDA_CACHE_DISABLE": "1"}
    program = inspect.getsource(load_program).encode()
    try:
        load = subprocess.Popen(
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
        stdout, stderr = load.communicate(program, timeout=limit)
    except subprocess.TimeoutExpired:
        return _hangs(load, limit)
    finally:
        _kill_all(load)
    try:
        answers = json.loads(stdout)
    except ValueError:
        return Problem(
            "crash", f"the load ended with status {load.returncode}: {last_line(stderr)}", _LOOK
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
        _LOOK,
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


# What is judged afterwards.


@dataclass(frozen=True)
class Seen:
    """A GPU before and after its load; ``after`` is None if NVML does not answer any more."""

    burn: Burn
    before: Gpu
    after: Gpu | None
    xids: Sequence[Xid] = ()
    log_problem: str = ""


def judge(
    before: Host, after: Host, burns: Sequence[Burn] | Problem, expectations: Expectations
) -> list[Check]:
    """Every check of a load that was tried."""
    if isinstance(burns, Problem):
        failed = Verdict(False, burns.detail, burns.remedy)
        return [check_of(HOST, "load", failed), *_host_checks(before, after, expectations)]
    seen = [_seen(burn, before, after) for burn in burns]
    checks = [*_host_checks(before, after, expectations)]
    for one in seen:
        checks += _gpu_checks(one, expectations)
    return [*checks, *_comparisons(burns, expectations)]


def new_xids(before: Host, after: Host) -> list[Xid]:
    """The Xids that were logged in between, with how often."""
    counted = {(xid.pci, xid.number): xid.count for xid in before.xids}
    found = [
        replace(xid, count=xid.count - counted.get((xid.pci, xid.number), 0)) for xid in after.xids
    ]
    return [xid for xid in found if xid.count > 0]


def _seen(burn: Burn, before: Host, after: Host) -> Seen:
    was = next(gpu for gpu in before.snapshot.gpus if gpu.index == burn.index)
    now = [gpu for gpu in after.snapshot.gpus if gpu.uuid == burn.uuid and not gpu.problem]
    return Seen(burn, was, now[0] if now else None)


def _host_checks(before: Host, after: Host, expectations: Expectations) -> Iterator[Check]:
    yield check_of(HOST, "nvml", nvml_answers(after))
    if expectations.xids is None:
        return
    problem = before.log_problem or after.log_problem
    if problem:
        detail = f"the kernel log cannot be read: {problem}"
        verdict = Verdict(False, detail, "Run the task with become: true.")
    else:
        verdict = _xids(new_xids(before, after), before, expectations.xids)
    yield check_of(HOST, "xids", verdict)


def _xids(found: Sequence[Xid], host: Host, accepted: Sequence[int]) -> Verdict:
    bad = [xid for xid in found if xid.number not in accepted]
    said = [f"{xid} on {_of(xid, host)}" for xid in bad]
    remedies = " ".join(dict.fromkeys(xid.remedy for xid in bad))
    return Verdict(not bad, "; ".join(said) or "no Xid during the load", remedies)


def _of(xid: Xid, host: Host) -> str:
    return next((subject_of(gpu) for gpu in host.snapshot.gpus if is_of(xid, gpu)), xid.pci)


def _gpu_checks(seen: Seen, expectations: Expectations) -> Iterator[Check]:
    burn, subject = seen.burn, subject_of(seen.before)
    yield check_of(subject, "load", _load(burn))
    if burn.figures:
        yield check_of(subject, "checksum", _checksum(burn))
        for name in FIGURES:
            wanted = getattr(expectations, name)
            if wanted is not None:
                yield check_of(subject, name, _figure(seen, name, wanted, expectations))
    unloaded = bool(burn.error) and not burn.during_load
    for name, judge_it in _DURING.items():
        wanted = getattr(expectations, name)
        if wanted is not None and not (unloaded and name in _SAMPLED):
            yield check_of(subject, name, judge_it(seen, wanted))


def _load(burn: Burn) -> Verdict:
    if burn.error:
        what = "it hangs" if burn.hangs else burn.error
        return Verdict(False, f"{what}; its last step was: {burn.phase}", burn.remedy or _LOOK)
    figures = burn.figures
    memory = figures["memory_bytes"] / 1e9
    return Verdict(
        True, f"{figures['iterations']} products over {memory:.1f} GB of memory, to the end", ""
    )


_WRONG = (
    "The GPU computes or stores wrong values without saying so: take it out of service and have it examined. If it is not the only "
    "one, look at power and cooling first."
)


def _checksum(burn: Burn) -> Verdict:
    figures = burn.figures
    wrong = []
    if figures["mismatches"]:
        wrong.append(
            f"{figures['mismatches']} of {figures['iterations']} products differ from the first one, iteration "
            f"{figures['first_mismatch']} was the earliest"
        )
    if figures["wrong"]:
        wrong.append(
            f"{figures['wrong']} of {figures['inspected']} elements of the product are wrong"
        )
    if not figures["copy_equal"]:
        wrong.append("a copy within the memory differs from its source")
    if not figures["host_equal"]:
        wrong.append("what was copied to the host and back differs")
    fine = f"all {figures['iterations']} products have checksum {figures['checksum']}, and copies are equal to their sources"
    return Verdict(not wrong, "; ".join(wrong) or fine, _WRONG)


_SLOW = {
    "matrix_tflops": (
        "Compare clock_sm_mhz, power_usage_watts and throttle_reasons in samples with those of a GPU that is faster: a lowered power limit, "
        "heat and a power supply that is too weak show there."
    ),
    "copy_gb_per_second": "Compare clock_memory_mhz in samples with that of a GPU that is faster, and look at the ECC counters.",
}
_LINK = (
    "Run gpu_validate for the generation and width of the link; reseat the GPU and its riser. Where GPUs or network cards share a switch, or "
    "the GPU is far from the processor that ran this, a lower figure is sound: set {name} to what this host reaches."
)


def _figure(seen: Seen, name: str, wanted: float | str, expectations: Expectations) -> Verdict:
    found = seen.burn.figures[name]
    unit = "TFLOP/s" if name == "matrix_tflops" else "GB/s"
    if wanted == "link":
        least, why = _link(seen.before, expectations.link_fraction)
    elif wanted == "datasheet":
        least, why = _promised(seen.burn.product, name, expectations)
    else:
        least, why = float(wanted), "as expectations say"
    if least is None:
        return Verdict(
            False,
            f"{found:.4g} {unit} were measured, and nothing is known to compare them with: {why}",
            f"Set {name} in expectations to the least that this product must reach, or to null.",
        )
    remedy = _SLOW.get(name) or _LINK.format(name=name)
    return Verdict(
        found >= least,
        f"{found:.4g} {unit}, at least {least:.4g} {unit} are expected ({why})",
        remedy,
    )


def _link(gpu: Gpu, fraction: float) -> tuple[float | None, str]:
    generation, width = gpu.pcie_generation_max, gpu.pcie_width_max
    if generation is None or width is None or generation not in LANE:
        return None, f"NVML says PCIe generation {generation} and width {width}"
    return fraction * LANE[generation] * width, f"{fraction:g} of PCIe {generation}.0 x{width}"


def _promised(
    product: str | None, name: str, expectations: Expectations
) -> tuple[float | None, str]:
    sheet = DATASHEETS.get(product or "")
    if sheet is None:
        return None, f"{product} is not among the products whose datasheet is known"
    peak, fraction = _peak(sheet, name, expectations)
    return fraction * peak, f"{fraction:g} of the {peak:g} of its datasheet"


def _peak(sheet: Datasheet, name: str, expectations: Expectations) -> tuple[float, float]:
    if name == "matrix_tflops":
        peak, own, given = sheet.tflops, sheet.matrix_fraction, expectations.matrix_fraction
    else:
        peak, own, given = sheet.gb_per_second, sheet.copy_fraction, expectations.copy_fraction
    return peak, own if isinstance(given, str) else given


# What NVML said of a GPU during and after its load.


def _unknown(what: str, name: str) -> Verdict:
    remedy = f"Set {name} to null where this product has no such thing."
    return Verdict(False, f"NVML did not say {what} during the load", remedy)


def _throttle(seen: Seen, accepted: Sequence[str]) -> Verdict:
    samples = [one.throttle_reasons for one in seen.burn.during_load]
    known = [reasons for reasons in samples if reasons is not None]
    if not known:
        return _unknown("throttle reasons", "throttle_reasons")
    counted: dict[str, int] = {}
    for reason in (one for reasons in known for one in reasons):
        counted[reason] = counted.get(reason, 0) + 1
    bad = [reason for reason in counted if reason not in accepted]
    found = ", ".join(
        f"{reason} in {count} of {len(known)} samples" for reason, count in counted.items()
    )
    remedies = dict.fromkeys(text for reason in bad for text in THROTTLE.get(reason, ()))
    return Verdict(
        not bad,
        f"clocks were held down by: {found or 'nothing'}; accepted: {', '.join(accepted) or 'nothing'}",
        " ".join([*remedies, "A reason that is wanted belongs in throttle_reasons."]),
    )


def _temperature(seen: Seen, most: float) -> Verdict:
    found = [one.temperature_celsius for one in seen.burn.during_load]
    known = [one for one in found if one is not None]
    if not known:
        return _unknown("a temperature", "temperature_celsius")
    return Verdict(
        max(known) <= most, f"{max(known)} °C at most, {most:g} °C are expected", COOLING
    )


def _margin(seen: Seen, least: float) -> Verdict:
    limit = seen.before.temperature_slowdown_celsius
    margins = [_margin_of(one, limit) for one in seen.burn.during_load]
    known = [margin for margin in margins if margin is not None]
    if not known:
        return _unknown("how far it is from slowing down", "temperature_margin_celsius")
    detail = f"at the warmest {min(known)} °C below the limit at which the GPU slows down, at least {least:g} °C are expected"
    return Verdict(min(known) >= least, detail, COOLING)


def _margin_of(sample: Sample, limit: int | None) -> int | None:
    if sample.temperature_margin_celsius is not None:
        return sample.temperature_margin_celsius
    if limit is None or sample.temperature_celsius is None:
        return None
    return limit - sample.temperature_celsius


_GONE = Verdict(False, "NVML does not answer for this GPU after the load", _LOOK)


def _ecc(kind: str, remedy: str) -> Callable[[Seen, int], Verdict]:
    def judge_it(seen: Seen, most: int) -> Verdict:
        if seen.after is None:
            return _GONE
        was = getattr(seen.before, f"ecc_volatile_{kind}")
        now = getattr(seen.after, f"ecc_volatile_{kind}")
        if was is None or now is None:
            reason = seen.before.errors.get(f"ecc_volatile_{kind}", "no reason is given")
            detail = f"NVML does not say {kind} ECC errors: {reason}"
            return Verdict(False, detail, f"Set ecc_{kind} to null where this product has no ECC.")
        detail = f"{now - was} {kind} ECC errors during the load, at most {most} are accepted"
        return Verdict(now - was <= most, detail, remedy)

    return judge_it


def _row_remap(seen: Seen, wanted: bool) -> Verdict:
    if seen.after is None:
        return _GONE
    state = [
        name
        for name in ("remapped_rows_pending", "remapped_rows_failed", "retired_pages_pending")
        if getattr(seen.after, name)
    ]
    return Verdict(
        not (wanted and state),
        f"after the load there is: {', '.join(state) or 'no row or page to be remapped'}",
        "Drain the host and reset the GPU (nvidia-smi --gpu-reset); if remapping has failed, have the GPU replaced.",
    )


# Of a load that did not come about there is nothing to be said.
_SAMPLED = ("throttle_reasons", "temperature_celsius", "temperature_margin_celsius")
_DURING: dict[str, Callable[[Seen, Any], Verdict]] = {
    "throttle_reasons": _throttle,
    "temperature_celsius": _temperature,
    "temperature_margin_celsius": _margin,
    "ecc_uncorrected": _ecc(
        "uncorrected", "Drain the host and have the GPU examined: its memory fails under load."
    ),
    "ecc_corrected": _ecc(
        "corrected", "Run it again for longer; if the errors come back, have the GPU examined."
    ),
    "row_remap": _row_remap,
}


# What GPUs of one product must have in common.


def _comparisons(burns: Sequence[Burn], expectations: Expectations) -> Iterator[Check]:
    products: dict[tuple[Any, ...], list[Burn]] = {}
    for burn in burns:
        if burn.figures:
            kind = (burn.product, burn.figures["multiprocessors"])
            products.setdefault(kind, []).append(burn)
    for (product, _count), group in products.items():
        if len(group) < 2:
            continue
        yield check_of(HOST, "checksums", _agree(product, group))
        for name, figure in (
            ("matrix_spread", "matrix_tflops"),
            ("copy_spread", "copy_gb_per_second"),
        ):
            most = getattr(expectations, name)
            if most is not None:
                yield check_of(HOST, name, _spread(product, group, figure, most))


def _agree(product: str, group: Sequence[Burn]) -> Verdict:
    by_sum: dict[str, list[str]] = {}
    for burn in group:
        by_sum.setdefault(burn.figures["checksum"], []).append(str(burn.index))
    said = "; ".join(f"{one} on GPU {', '.join(gpus)}" for one, gpus in by_sum.items())
    return Verdict(len(by_sum) == 1, f"checksum of the same product on {product}: {said}", _WRONG)


def _spread(product: str, group: Sequence[Burn], figure: str, most: float) -> Verdict:
    slow = min(group, key=lambda burn: burn.figures[figure])
    fast = max(group, key=lambda burn: burn.figures[figure])
    low, high = slow.figures[figure], fast.figures[figure]
    spread = 1 - low / high if high else 1.0
    return Verdict(
        spread <= most,
        f"the slowest {product} (GPU {slow.index}, {low:.4g}) is {spread:.1%} below the fastest (GPU {fast.index}, {high:.4g}), "
        f"at most {most:.1%} are expected",
        _SLOW[figure],
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
