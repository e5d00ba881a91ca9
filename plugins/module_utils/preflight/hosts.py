# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight judges of one host: whether it can be used, its system, processors, memory, clock, NICs, disk and GPUs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any

from ..inventory import flavours, releases, requirements, systems
from .check import (
    DEFERRED,
    DROPPED,
    FAILED,
    OK,
    UNTESTED,
    Check,
    Groups,
    Host,
    at_least,
    groups_of,
    judge,
    number,
)
from .keys import custody_checks

CLOCK_SECONDS = 60
ARCHITECTURES = ("x86_64",)
# The zones whose NICs carry the models and the requests.
FAST_ZONES = ("inference", "storage")


def host_checks(
    host: Host, groups: Groups, least: Mapping[str, Any], needed: int = 0
) -> Iterator[Check]:
    """Judge one host, of whose disk the releases will take so many bytes."""
    if host.facts is None:
        yield _reachable(host)
        return
    yield Check(host.name, "reachable", OK, "it answers, and sudo works")
    yield from _root_checks(host.name, host.facts)
    accepts_untested = host.variables.get(systems.ACCEPTING) is True
    yield _system_check(host.name, host.facts, accepts_untested)
    yield from _machine_checks(host.name, host.facts)
    yield from _hardware_checks(host, groups, least)
    if host.info is None:
        yield Check(
            host.name, "host_info", FAILED, host.info_error, "", "Run module host_info by hand"
        )
    else:
        yield from _clock_checks(host.name, host.info["clock"], least)
        yield from _own_addresses(host)
        yield from _nic_checks(host.name, host.info["nics"], least)
        if set(groups_of(host.name, groups)) & set(requirements.STORE_GROUPS):
            yield from _disk_checks(host, groups, least, needed)
        yield from _gpu_checks(host, groups)
    for result in host.checkpoints:
        yield from _checkpoint_checks(host.name, result)
    yield from custody_checks(host, groups)
    yield from _broken(host)


def _checkpoint_checks(name: str, result: Mapping[str, Any]) -> Iterator[Check]:
    """Judge the checkpoint of one release by what module checkpoint_info says of it."""
    path, examined = result["__preflight_entry"]["checkpoint"], result.get("checkpoint") or {}
    # the module may have failed without a list
    alone = {"file": path, "problem": result.get("msg", ""), "remedy": "Correct it"}
    problems = examined.get("problems", [alone] if alone["problem"] else [])
    for problem in problems:
        found = f"{problem['file']}: {problem['problem']}"
        expected = f"what can be published, in {path}"
        yield Check(name, "checkpoint", FAILED, found, expected, _sentence(problem["remedy"]))
    if not problems and not examined.get("read_by_service", True):
        found = "tokenizer and chat template are loaded when it is published: the serving package is not installed yet"
        yield Check(name, "checkpoint", DEFERRED, found)


def _broken(host: Host) -> Iterator[Check]:
    """Say what ended a host's examination; what a variable is to blame for is said of the variable."""
    for text in host.broken:
        if host.unread:
            yield Check(
                host.name, "examined", DEFERRED, f"its variables cannot all be read: {text}"
            )
        else:
            remedy = "Correct what is said here, and run preflight again"
            yield Check(host.name, "examined", FAILED, text, "", remedy)


def _is_of_a_variable(host: Host, text: str) -> bool:
    """Whether an examination ended by a variable that cannot be read. Without a connection's variables the host does not even get a task."""
    return any(
        why in text or (name.startswith("ansible_") and text == DROPPED)
        for name, why in host.unread.items()
    )


# Checks that say of a variable that it is missing or cannot be read.
_OF_VARIABLES = {"variables", "addresses"}
# What a module of a precheck refuses and preflight judges itself, by the name of the role's task: the check here. Requirements of action
# require name theirs themselves.
COVERED: dict[str, Set[str]] = {
    "Refuse a checkpoint that cannot be served, and precisions without their texts": {"checkpoint"},
}


# How Jinja says that a variable, or a part of one, is not there.
_UNREADABLE = ("is undefined", "has no attribute")


def refusal_checks(host: Host, failed: Set[str]) -> Iterator[Check]:
    """Say what roles would refuse on a host, but for what is said already: *failed* are the names of checks of it that are not met."""
    for refusal in host.refusals:
        for found, remedy, covered in _refused(refusal, host.name):
            # of a variable that is missing or cannot be read, which is said of the variable
            unreadable = any(words in found for words in _UNREADABLE)
            if failed & (covered | _OF_VARIABLES if unreadable else covered):
                continue
            hint = remedy or f"See ansible-doc -t role onprem.deepseek.{refusal['role']}"
            yield Check(host.name, refusal["role"], FAILED, found, "", hint)


def _refused(refusal: Mapping[str, Any], host: str) -> Iterator[tuple[str, str, Set[str]]]:
    """What a precheck has found, what to do, and the checks that say the same: of action require as it gives it, otherwise of the texts."""
    for one in refusal.get("findings") or ():
        what = f"{one['where']}: {one['what']}"
        what = what.removeprefix(host).removeprefix(": ").removeprefix(", ")
        found, remedy = (what, one["remedy"]) if one["remedy"] else _parts(what)
        yield found, remedy, set(one["covered_by"])
    if not refusal.get("findings"):
        for text in refusal["says"]:
            yield *_parts(text.removeprefix(f"{host}: ")), COVERED.get(refusal["task"], set())


def _parts(text: str) -> tuple[str, str]:
    """A refusal's first sentence, which says what is wrong, and the others, which say what to do."""
    found = re.match(r"(.+?)[.;] +(?=[A-Z])(.+)", text, re.DOTALL)
    return (found[1], found[2].rstrip(".")) if found else (text.rstrip("."), "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reachable(host: Host) -> Check:
    if not host.asked:
        return Check(
            host.name, "reachable", DEFERRED, "the inventory gives it no management address"
        )
    error = host.error or "it gave no facts"
    if host.broken and all(_is_of_a_variable(host, text) for text in host.broken):
        return Check(host.name, "reachable", DEFERRED, f"its variables cannot all be read: {error}")
    return Check(
        host.name,
        "reachable",
        FAILED,
        f"it cannot be used: {error}",
        "SSH, Python 3, and sudo without a password",
        next(
            (remedy for sign, remedy in _UNUSABLE.items() if re.search(sign, error, re.IGNORECASE)),
            _DOWN,
        ),
    )


_DOWN = (
    "Start it, and check address, user, SSH key and sudo with: ansible -m ansible.builtin.ping -b"
)
# What Ansible says of a host that cannot be used, and what to do then.
_UNUSABLE = {
    r"sudo|become|privilege|password is required": "Let its user run sudo without a password, or give the password with --ask-become-pass",
    r"python|interpreter": "Install Python 3 on it, or name the one that it has in ansible_python_interpreter",
    r"host key|Host key": "Check the host's key, and put the right one into known_hosts",
}


def _root_checks(name: str, facts: Mapping[str, Any]) -> Iterator[Check]:
    if facts.get("effective_user_id") is not None:
        yield judge(
            Check(
                name,
                "root",
                "",
                f"tasks run as {facts.get('user_id')}",
                "root, whose files the roles change",
                "Remove ansible_become: false and ansible_become_user from the host's variables, or let its user become root",
            ),
            facts["effective_user_id"] == 0,
        )


def _system_check(name: str, facts: Mapping[str, Any], accepts_untested: bool) -> Check:
    verdict = systems.judged(facts, accepts_untested)
    if verdict.refused:
        found = f"{verdict.name}: {verdict.refused}"
        return Check(name, "system", FAILED, found, systems.NAMES, verdict.remedy)
    if verdict.tested:
        return Check(name, "system", OK, verdict.name, systems.NAMES)
    return Check(name, "system", UNTESTED, f"{verdict.name}: no role was tested on it")


def _machine_checks(name: str, facts: Mapping[str, Any]) -> Iterator[Check]:
    yield judge(
        Check(
            name,
            "architecture",
            "",
            str(facts.get("architecture")),
            " or ".join(ARCHITECTURES),
            "Take the host out of the inventory",
        ),
        facts.get("architecture") in ARCHITECTURES,
    )
    manager = str(facts.get("service_mgr"))
    yield judge(
        Check(name, "init", "", manager, "systemd", "Reinstall the host"), manager == "systemd"
    )


def _hardware_checks(host: Host, groups: Groups, least: Mapping[str, Any]) -> Iterator[Check]:
    mine, facts = groups_of(host.name, groups), host.facts or {}
    cpus, memory = facts.get("processor_vcpus"), facts.get("memtotal_mb")
    yield at_least(
        host.name,
        ("cpus", ""),
        cpus,
        requirements.for_host(least, "cpus", mine),
        "Use a host with more processors",
    )
    yield at_least(
        host.name,
        ("memory_gb", "GB"),
        # the fact is in units of 2^20 bytes
        None if memory is None else memory * 1.048576 / 1000,
        requirements.for_host(least, "memory_gb", mine),
        "Add memory",
    )


def _clock_checks(name: str, clock: Mapping[str, Any], least: Mapping[str, Any]) -> Iterator[Check]:
    offset = clock["offset_seconds"] or 0.0
    side = "ahead of" if offset > 0 else "behind"
    near = abs(offset) <= CLOCK_SECONDS
    yield judge(
        Check(
            name,
            "clock",
            "",
            f"it is {abs(offset):.0f} s {side} the controller's"
            if not near
            else "as the controller's",
            f"within {CLOCK_SECONDS} s",
            "Set up time synchronisation: certificates are valid from the minute in which they are issued",
        ),
        near,
    )
    if not clock["service"]:
        found = "no time service runs"
    elif clock["synchronised"]:
        found = f"kept by {clock['service']} within {number(clock['max_error_ms'])} ms"
    else:
        found = f"{clock['service']} runs and has not set the clock"
    yield judge(
        Check(
            name,
            "clock_synchronised",
            "",
            found,
            "a time service that is synchronised",
            "Configure chrony with a time server that the host can reach, and look at it with chronyc tracking",
        ),
        None if least["clock_synchronised"] is None else clock["synchronised"],
    )


def _own_addresses(host: Host) -> Iterator[Check]:
    nics, facts = (host.info or {})["nics"], host.facts or {}
    has = [*facts.get("all_ipv4_addresses", ()), *facts.get("all_ipv6_addresses", ())]
    for zone, nic in nics.items():
        text = host.addresses.get(zone) if isinstance(host.addresses, Mapping) else None
        if not _is_address(text):
            continue
        yield judge(
            Check(
                host.name,
                "address",
                "",
                f"it has no address {text} ({zone}), only {', '.join(sorted(has))}"
                if nic is None
                else f"{text} ({zone}) on {nic['interface']}",
                f"{text}, as deepseek_zone_addresses.{zone} says",
                "Correct the inventory, or set the interface up",
            ),
            nic is not None,
        )


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def _nic_checks(name: str, nics: Mapping[str, Any], least: Mapping[str, Any]) -> Iterator[Check]:
    """Judge the NICs between the hosts, each once though it may have several addresses."""
    seen: set[str] = set()
    for zone in FAST_ZONES:
        nic = nics.get(zone)
        if not nic or nic["interface"] in seen:
            continue
        seen.add(nic["interface"])
        yield at_least(
            name,
            ("nic_mbps", f"Mb/s ({nic['interface']}, {zone})"),
            nic["speed_mbps"],
            least["nic_mbps"],
            "Look at cable, transceiver and switch port with ethtool",
            f"unknown: {nic['unknown']}",
        )


def _disk_checks(
    host: Host, groups: Groups, least: Mapping[str, Any], needed: int
) -> Iterator[Check]:
    mine, disk = groups_of(host.name, groups), (host.info or {})["disk"]
    size, free = disk["size"], disk["free"]
    unknown = f"unknown: {disk['unknown']}" if disk["unknown"] else "unknown: it was not measured"
    yield at_least(
        host.name,
        ("disk_gb", f"GB ({disk['path']})"),
        None if size is None else size / 1e9,
        requirements.for_host(least, "disk_gb", mine),
        "Give the store a larger disk",
        unknown,
    )
    if free is not None:
        yield judge(
            Check(
                host.name,
                "disk_free",
                "",
                f"{free} bytes free for the store",
                f"at least {needed} bytes, which the releases take",
                "Free some space or give the store a larger file system",
            ),
            free >= needed,
        )
    yield at_least(
        host.name,
        ("disk_read_mb_s", f"MB/s ({disk['read_from']})" if disk["read_from"] else "MB/s"),
        disk["read_mb_s"],
        requirements.for_host(least, "disk_read_mb_s", mine),
        "Give the store a faster disk",
        unknown,
    )


def _gpu_checks(host: Host, groups: Groups) -> Iterator[Check]:
    """Judge the GPUs of an inference host whose engine needs them."""
    needing = [
        flavour
        for flavour in releases.engines(host.name, host.variables)
        if flavour in flavours.GPU_FLAVOURS
    ]
    if host.name not in groups.get("inference", ()) or not needing:
        return
    gpu = (host.info or {})["gpu"]
    if host.gpus is not None:
        for judged in host.gpus:
            subject = "" if judged["subject"] == "host" else f"{judged['subject']}: "
            yield Check(
                host.name,
                f"gpu_{judged['name']}",
                OK if judged["ok"] else FAILED,
                f"{subject}{judged['detail'].rstrip('.')}",
                "",
                judged["remedy"].rstrip("."),
            )
    elif not gpu["pci"]:
        yield Check(
            host.name,
            "gpus",
            FAILED,
            "no NVIDIA GPU on the PCI bus",
            f"GPUs, which the engine {needing[0]} needs",
            "Look at seat and power of the GPUs, or choose a flavour without GPUs",
        )
    elif gpu["driver"]:
        yield Check(
            host.name,
            "gpus",
            DEFERRED,
            f"{len(gpu['pci'])} on the PCI bus, driver {gpu['driver']}; they are judged once role serving_environment has installed "
            "nvidia-ml-py, or now if gpu_validation_wheel names a wheel of it on the host",
        )
    elif host.variables.get("deepseek_manage_gpu_driver") is True:
        yield Check(
            host.name,
            "gpus",
            DEFERRED,
            f"{len(gpu['pci'])} on the PCI bus; they are judged once the rollout has installed the driver",
        )
    else:
        yield Check(
            host.name,
            "gpus",
            FAILED,
            f"{len(gpu['pci'])} on the PCI bus, and no NVIDIA driver is loaded",
            "a driver that is loaded",
            "Install NVIDIA's driver, or set deepseek_manage_gpu_driver to true",
        )
