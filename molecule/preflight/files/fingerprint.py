"""Print each file that a run could change, and each program that runs but Ansible's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

DIRECTORIES = ("/etc", "/home", "/opt", "/root", "/srv", "/usr/local")
# What a connection from the controller leaves and removes.
PASSING = {"sshd", "sshd-session", "sshd-auth", "sudo", "sh", "python3", "(sd-pam)"}


def files() -> Iterator[str]:
    for directory in DIRECTORIES:
        for path in sorted(Path(directory).rglob("*")):
            if ".ansible" in path.parts and path.is_dir():
                continue  # of the controller's connections, as are programs that pass
            status = path.lstat()
            digest = ""
            if path.is_file() and not path.is_symlink():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield f"{path} {status.st_mode:o} {status.st_uid} {status.st_size} {digest}"


def programs() -> list[str]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            owner, name = comm.stat().st_uid, comm.read_text().strip()
            pid = int(comm.parent.name)
        except OSError:
            continue
        if pid != os.getpid() and (name not in PASSING or owner not in (0, 1000)):
            found.append(f"{name}:{owner}")
    return sorted(found)


print(*files(), *programs(), sep="\n")
