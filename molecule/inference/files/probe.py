"""Run in a worker's place, with its unit's sandbox: try what a worker must not be able to do.

Prints one line of JSON: what succeeded although it must not ("able"), and what failed although it
must work ("unable"). Both lists must be empty.

Arguments: the worker's port, the host's own address, an address that is out of bounds, the
directories of store and configuration, and directories that must not be written into.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

TEMPORARY = Path(tempfile.gettempdir())
# after which packets count as dropped: what is refused or answered is so at once
DROPPED_SECONDS = 2
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
SYS_PERSONALITY, SYS_REBOOT, SYS_BPF, SYS_KEYCTL = 135, 169, 321, 250
PTRACE_ATTACH = 16
SCHED_FIFO = 1


def checked(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(directory: str | Path) -> None:
    (Path(directory) / "written-by-the-probe").write_text("x", encoding="ascii")


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def list_entries(directory: str) -> None:
    if not os.listdir(directory):
        raise FileNotFoundError(directory)


def connect(address: str, port: int) -> None:
    """Where packets get through, a closed port refuses at once; dropped packets do not."""
    with socket.socket() as client:
        client.settimeout(DROPPED_SECONDS)
        try:
            client.connect((address, port))
        except ConnectionRefusedError:
            return


def listen(own: str, port: int) -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((own, port))


def open_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def other_processes() -> None:
    mine = {os.getpid(), os.getppid()}
    if not [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]:
        raise ProcessLookupError("no other process is seen")


def set_user_id_file() -> None:
    path = TEMPORARY / "probe"
    path.write_text("x", encoding="ascii")
    path.chmod(0o4755)


def forbidden(
    port: int, own: str, address: str, config: str, directories: Sequence[str]
) -> dict[str, Callable[[], None]]:
    """What must fail, each under the words that name it in a report."""
    return {
        **{
            f"write into {directory}": lambda directory=directory: write(directory)
            for directory in directories
        },
        "become root": lambda: os.setuid(0),
        "become the group of root": lambda: os.setgid(0),
        "give itself a namespace of users": lambda: checked(LIBC.unshare(CLONE_NEWUSER)),
        "mount": lambda: checked(LIBC.mount(b"none", bytes(TEMPORARY), b"tmpfs", 0, None)),
        "change its root": lambda: os.chroot(TEMPORARY),
        "set the clock": lambda: checked(
            LIBC.settimeofday(ctypes.byref((ctypes.c_long * 2)()), None)
        ),
        "change the host's name": lambda: checked(LIBC.sethostname(b"probe", 5)),
        "trace the first process": lambda: checked(LIBC.ptrace(PTRACE_ATTACH, 1, 0, 0)),
        "load a program into the kernel": lambda: checked(LIBC.syscall(SYS_BPF, 0, 0, 0)),
        "use the keyring": lambda: checked(LIBC.syscall(SYS_KEYCTL, 0, -3, 1)),
        "reboot": lambda: checked(LIBC.syscall(SYS_REBOOT, 0, 0, 0, 0)),
        "change its personality": lambda: checked(LIBC.syscall(SYS_PERSONALITY, 0x0040000)),
        "run in real time": lambda: os.sched_setscheduler(0, SCHED_FIFO, os.sched_param(1)),
        "have memory that is written and executed": executable_memory,
        "make a file that runs as its owner": set_user_id_file,
        "see other processes": other_processes,
        "read a private key where it lies": lambda: read(f"{config}/tls/host.key"),
        "read the release token": lambda: list_entries(f"{config}/hsm/release"),
        "read the shadow file": lambda: read("/etc/shadow"),
        "read the kernel's log": lambda: read("/dev/kmsg"),
        "read the machine's memory": lambda: read("/dev/mem"),
        "capture packets": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "talk to the kernel over netlink": lambda: open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "make its own IP packets": lambda: open_socket(socket.AF_INET, socket.SOCK_RAW),
        "listen on another port": lambda: listen(own, port + 100),
        f"reach {address}": lambda: connect(address, 22),
    }


def needed(port: int, own: str, store: str) -> dict[str, Callable[[], None]]:
    """What must work, so that the failures above are the sandbox's and not the probe's."""
    return {
        "listen on its port": lambda: listen(own, port),
        "write into a temporary directory of its own": lambda: write(TEMPORARY),
        "read the store": lambda: list_entries(store),
        "read its credentials": lambda: read(f"{os.environ['CREDENTIALS_DIRECTORY']}/host.key"),
        "reach its own address": lambda: connect(own, port),
    }


def fails(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except (OSError, PermissionError) as error:
        # a probe that is wrong itself would otherwise look like a sandbox that holds
        return error.errno not in (errno.EINVAL, errno.EFAULT)
    return False


def main() -> None:
    port, (own, address, store, config, *directories) = int(sys.argv[1]), sys.argv[2:]
    directories.append(os.environ["CREDENTIALS_DIRECTORY"])
    must_fail = forbidden(port, own, address, config, directories)
    must_work = needed(port, own, store)
    report = {
        "able": [what for what, attempt in must_fail.items() if not fails(attempt)],
        "unable": [what for what, attempt in must_work.items() if fails(attempt)],
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
