# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The workers of an inference host: one process each, with a port, and GPUs or processors, of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KEYS = ("name", "port", "gpus", "cpus", "memory_max")
# What a host has that says nothing of workers: one, with all that the host has.
ALONE = ({"name": "main"},)
# Together, workers that name no limit of their own leave a fifth of the memory to the rest of the host.
SHARED_PERCENT = 80

# It is part of the names of units, files and backends.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
# As nvidia-smi -L prints them, of whole GPUs and of MIG instances.
_GPU = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?|[1-9][0-9]?%|100%|infinity")


@dataclass(frozen=True)
class Worker:
    """One worker, with everything filled in.

    ``gpus`` are UUIDs, and empty for all GPUs; ``cpus`` are ranges of processors as systemd's
    ``CPUAffinity=`` takes them, and empty for all; ``memory_max`` is as ``MemoryMax=`` takes it.
    """

    name: str
    port: int
    gpus: tuple[str, ...]
    cpus: str
    memory_max: str


def processors(cpus: str) -> set[int]:
    """Give the processors of a list such as ``0-3,8``; ValueError if it is none."""
    found: set[int] = set()
    for part in cpus.replace(" ", ",").split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f"{part!r} is no processor and no range of processors")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part} ends before it begins")
        found |= set(range(first, last + 1))
    return found


def problems(listed: Any, port: Any, online: str = "") -> list[str]:
    """Give everything that is wrong with a list of workers that begins at a port.

    ``online`` are the processors of the host, where they are known.
    """
    if listed in (None, ""):
        listed = ALONE
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return [f"it is {listed!r}, and must be a list of mappings, each with a name"]
    found = [
        f"worker {index + 1}: {problem}"
        for index, entry in enumerate(listed)
        for problem in _entry_problems(entry)
    ]
    if found:
        return found
    described = _workers(listed, int(port))
    return [*_conflicts(described), *_missing(described, online)]


def names(listed: Any) -> list[str] | None:
    """Give the names of a host's workers; None where they are not well described, which :func:`problems` says."""
    entries = ALONE if listed in (None, "") else listed
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return None
    found = [entry.get("name") if isinstance(entry, Mapping) else None for entry in entries]
    usable = [name for name in found if isinstance(name, str) and _NAME.fullmatch(name)]
    return usable if len(usable) == len(found) == len(set(usable)) else None


def _missing(workers: Sequence[Worker], online: str) -> Iterator[str]:
    """Find processors that the host does not have."""
    for worker in workers:
        if online and worker.cpus and not processors(worker.cpus) <= processors(online):
            yield f"worker {worker.name}: its cpus are {worker.cpus}, and the host has {online}"


def _entry_problems(entry: Any) -> Iterator[str]:
    if not isinstance(entry, Mapping):
        yield f"it is {entry!r}, and must be a mapping with a name"
        return
    for key in entry:
        if key not in KEYS:
            yield f"it has the key {key!r}; there are {', '.join(KEYS)}"
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"its name is {name!r}; it must be 1 to 32 lower-case letters, digits and inner hyphens"
    if entry.get("port") is not None and not _is_port(entry["port"]):
        yield f"its port is {entry['port']!r}; it must be between 1024 and 65535"
    for gpu in _gpus(entry.get("gpus")):
        if not isinstance(gpu, str) or not _GPU.fullmatch(gpu):
            yield f"its GPU is {gpu!r}; write the UUID that nvidia-smi -L prints"
    if entry.get("cpus"):
        try:
            processors(str(entry["cpus"]))
        except ValueError as error:
            yield f"its cpus are {entry['cpus']!r}: {error}"
    memory = entry.get("memory_max")
    if memory is not None and not _MEMORY.fullmatch(str(memory)):
        yield (
            f"its memory_max is {memory!r}; write a number of bytes with K, M, G or T (48G), a share "
            "of the memory (80%), or infinity"
        )


def _is_port(value: Any) -> bool:
    text = str(value)
    return not isinstance(value, bool) and text.isdecimal() and 1024 <= int(text) <= 65535


def _gpus(value: Any) -> Sequence[Any]:
    if value in (None, ""):
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _conflicts(workers: Sequence[Worker]) -> Iterator[str]:
    """Find what two workers would both have."""
    owners: dict[str, list[str]] = {}
    for worker in workers:
        if worker.port > 65535:
            yield f"worker {worker.name}: its port would be {worker.port}; the last is 65535"
        for thing in (
            f"the name {worker.name}",
            f"port {worker.port}",
            *(f"GPU {gpu}" for gpu in worker.gpus),
            *(f"processor {cpu}" for cpu in sorted(processors(worker.cpus) if worker.cpus else ())),
        ):
            owners.setdefault(thing, []).append(worker.name)
    for thing, names in owners.items():
        if len(names) > 1:
            yield f"workers {', '.join(names)} share {thing}; give each its own"
    for what in ("gpus", "cpus"):
        without = [worker.name for worker in workers if not getattr(worker, what)]
        if without and len(without) < len(workers):
            yield f"workers {', '.join(without)} have no {what}, and others do; give all of them some, or none"


def _workers(entries: Sequence[Mapping[str, Any]], port: int) -> list[Worker]:
    share = f"{SHARED_PERCENT // max(1, len(entries)) or 1}%"
    return [
        Worker(
            name=entry["name"],
            port=port + index if entry.get("port") is None else int(entry["port"]),
            gpus=tuple(_gpus(entry.get("gpus"))),
            cpus=str(entry.get("cpus") or ""),
            memory_max=str(entry.get("memory_max") or share),
        )
        for index, entry in enumerate(entries)
    ]


def workers(listed: Any, port: int, online: str = "") -> list[dict[str, Any]]:
    """Give each worker with everything filled in; the first gets ``port``, each other the next one.

    None and the empty string stand for a host that says nothing of workers; an empty list has none.

    ValueError names everything that is wrong, as :func:`problems` finds it.
    """
    found = problems(listed, port, online)
    if found:
        raise ValueError("; ".join(found))
    entries = ALONE if listed in (None, "") else listed
    return [asdict(worker) for worker in _workers(entries, int(port))]
