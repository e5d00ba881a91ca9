# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find out from content which workers of an inference host must be started again.

After a worker was started and has answered, its record is written: the checksums of all that it was started with. A worker whose
record says something else than its files do is pending, whatever became of the run that changed the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

MISSING = "-"
UNITS = "/etc/systemd/system"
CREDENTIALS = ("host.pem", "ca.pem", "crl.pem")
WORKER_UNIT = "deepseek-inference@.service"
TARGET = "deepseek-inference.target"
UPSTREAM_UNIT = "deepseek-upstream.service"
# The environment with the key that the upstream asks of its clients; there is none where it listens on a Unix socket.
UPSTREAM_KEY = "upstream.env"


def prepared_files(
    workers: Iterable[Mapping[str, Any]], settings: str, upstream: bool
) -> list[dict[str, str]]:
    """What the role renders: the name in the directory `next`, and the path that it is copied to when the host's turn has come."""
    files = [
        {"name": WORKER_UNIT, "path": f"{UNITS}/{WORKER_UNIT}", "mode": "0644"},
        {"name": TARGET, "path": f"{UNITS}/{TARGET}", "mode": "0644"},
    ]
    if upstream:
        files.append({"name": UPSTREAM_UNIT, "path": f"{UNITS}/{UPSTREAM_UNIT}", "mode": "0644"})
    for worker in workers:
        name = worker["name"]
        unit = f"{UNITS}/deepseek-inference@{name}.service.d"
        files += [
            {"name": f"{name}.toml", "path": f"{settings}/{name}.toml", "mode": "0640"},
            {"name": f"{name}.conf", "path": f"{unit}/worker.conf", "mode": "0644"},
        ]
    return files


def record_of(sums: Mapping[str, str], named: Mapping[str, str]) -> str:
    """A line for each file: the checksum of the content in `named[path]`, and the path that a process reads."""
    return "".join(f"{sums.get(named[path], MISSING)}  {path}\n" for path in sorted(named))


def pending(
    sums: Mapping[str, str],
    workers: Iterable[Mapping[str, Any]],
    settings: str,
    tls: str,
    upstream: bool = False,
    apply: bool = True,
) -> dict[str, Any]:
    """What is left to do on a host, from the SHA-1 of its files by path.

    Without `apply` the prepared files stay where they are, and only certificates, lists and what is installed count.
    """
    listed = list(workers)
    files = prepared_files(listed, settings, upstream)
    source = {file["path"]: f"{settings}/next/{file['name']}" for file in files}
    content = {path: source[path] if apply else path for path in source}
    install = [
        {**file, "next": source[file["path"]]}
        for file in files
        if apply and sums.get(source[file["path"]], MISSING) != sums.get(file["path"])
    ]
    credentials = {f"{tls}/{name}": f"{tls}/{name}" for name in CREDENTIALS}
    records, due = {}, []
    for worker in listed:
        name = worker["name"]
        own = (
            f"{settings}/{name}.toml",
            f"{UNITS}/deepseek-inference@{name}.service.d/worker.conf",
        )
        read = {path: content[path] for path in (f"{UNITS}/{WORKER_UNIT}", *own)}
        records[name] = record_of(sums, {**read, **credentials})
        if _differs(sums, f"{settings}/started/worker-{name}", records[name]):
            due.append(name)
    upstream_record = ""
    if upstream:
        path = f"{UNITS}/{UPSTREAM_UNIT}"
        key = f"{settings}/{UPSTREAM_KEY}"
        upstream_record = record_of(sums, {path: content[path], key: key})
    upstream_due = upstream and _differs(sums, f"{settings}/started/upstream", upstream_record)
    names = [worker["name"] for worker in listed]
    former = [
        PurePosixPath(path).stem
        for path in sorted(sums)
        if apply
        and path.startswith(f"{settings}/")
        and PurePosixPath(path).parent.as_posix() == settings
        and path.endswith(".toml")
        and PurePosixPath(path).stem not in names
    ]
    drained = f"{settings}/drained" in sums
    return {
        "install": install,
        "records": records,
        "due": names if drained else due,
        "upstream_record": upstream_record,
        "upstream_due": upstream_due,
        "former": former,
        "drained": drained,
        "needed": bool(install or due or upstream_due or former or drained),
    }


def _differs(sums: Mapping[str, str], path: str, text: str) -> bool:
    # the checksum that Ansible's find and stat take; it tells contents apart, and protects nothing
    return sums.get(path) != hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
