"""Print a digest of everything below some folders, and the programs that run but Ansible's own."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

# What a connection from the controller brings and takes along.
PASSING = {"sshd", "sshd-session", "sshd-auth", "sudo", "sh", "python3", "(sd-pam)"}


def files(folders: list[str]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            status = path.lstat()
            digest.update(repr((str(path), status.st_mode, status.st_uid, status.st_size)).encode())
            if path.is_file() and not path.is_symlink():
                digest.update(path.read_bytes())
    return digest.hexdigest()


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


print(files(sys.argv[1:]), *programs())
