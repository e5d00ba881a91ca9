# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what GPUs did under load is what is expected of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .burn_in import FIGURES, READ_LOG, Burn, Sample
from .checks import COOLING, THROTTLE, is_of, nvml_answers, subject_of
from .datasheets import DATASHEETS, LANE, Datasheet
from .expectations import AMOUNT, COUNT, MODE, REASONS, WHOLES, Kind, amount_or, values_of
from .host import Host
from .snapshot import Gpu, Problem
from .verdict import HOST, Check, Verdict, check_of
from .xid import Xid


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
        return Verdict(False, f"{what}; its last step was: {burn.phase}", burn.remedy or READ_LOG)
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


_GONE = Verdict(False, "NVML does not answer for this GPU after the load", READ_LOG)


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
