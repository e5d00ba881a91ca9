# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create and destroy the test hosts: systemd containers on internal networks with no way out.

``hosts.py up`` and ``hosts.py down`` read a description on standard input, as ``create.yml`` makes
it from the inventory::

    {"name": "lab", "octet": 110, "image": "bare",
     "hosts": {"storage-1": {"debian": "bookworm", "addresses": {"management": "10.110.10.31"}}}}

Each network is ``10.<octet>.<zone>.0/24``; this machine has ``.1`` on the management and service
networks, so that it can reach the hosts by SSH and ask the gateway, and none on the others.

Everything that is made is below ONPREM_LAB_STATE, or named after it: labs of different states are
up side by side. Only an octet is this machine's, and one lab at a time has it. What
was done is printed line by line with its duration; the last line is ``changed=<count>``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims import Claims, LabError, claim, forget, hosts_elsewhere, one_at_a_time

HERE = Path(__file__).resolve().parent
STATE = Path(os.environ.get("ONPREM_LAB_STATE", "/var/lib/onprem-deepseek-lab"))
# What labs of all states share: one is made or removed at a time, and the file says which lab has
# which octet. Not below STATE, which purge removes; gone with the next start of the machine.
LOCK = Path("/run/lock/onprem-deepseek-lab")
# What hosts keep for each other, as tests/lab/package.yml does.
KEPT = STATE / "kept"
PODMAN = str(HERE / "podman")
ZONES = {"management": 10, "service": 20, "inference": 30, "storage": 40}
CONTROLLER_ZONES = ("management", "service")
CACHE_PORT = 3142  # on each lab's management network, forwarded to the one cache on loopback
CACHE_LOOPBACK_PORTS = range(13142, 14142)  # apt-cacher-ng has none above 32767
BOOT_SECONDS = 300  # ends a hang, and judges no speed
INOTIFY_INSTANCES = 7  # what systemd and its services take on one host


@dataclass(frozen=True)
class Host:
    """One test host: its name, Debian release, and address in each zone that it is in."""

    name: str
    debian: str
    addresses: dict[str, str]


@dataclass(frozen=True)
class Lab:
    """The hosts of one inventory and the networks between them."""

    name: str
    octet: int
    hosts: tuple[Host, ...]
    image: str = "bare"

    @property
    def directory(self) -> Path:
        """Where this lab's own files are on this machine."""
        return STATE / "labs" / self.name

    def subnet(self, zone: str) -> str:
        """The zone's network, in CIDR form."""
        return f"10.{self.octet}.{ZONES[zone]}.0/24"

    def controller(self, zone: str) -> str:
        """This machine's address in the zone."""
        return f"10.{self.octet}.{ZONES[zone]}.1"

    def bridge(self, zone: str) -> str:
        """The zone's interface on this machine, which no lab of another state has."""
        return f"d{hashlib.sha256(str(STATE).encode()).hexdigest()[:5]}-{self.octet}-{ZONES[zone]}"

    def container(self, host: Host) -> str:
        """The container of the host."""
        return f"{self.name}-{host.name}"


def parse(text: str) -> Lab:
    """Read the description; raises LabError naming what is missing."""
    data = json.loads(text)
    hosts = tuple(Host(name, h["debian"], h["addresses"]) for name, h in data["hosts"].items())
    lab = Lab(data["name"], int(data["octet"]), hosts, data["image"])
    for host in hosts:
        for zone, address in host.addresses.items():
            prefix = lab.subnet(zone).rsplit(".", 1)[0] + "." if zone in ZONES else None
            if prefix is None or not address.startswith(prefix):
                raise LabError(
                    f"{host.name}: address {address} of zone {zone!r} is not in the lab's networks "
                    f"{[lab.subnet(z) for z in ZONES]}; "
                    "correct deepseek_zone_addresses or lab_octet"
                )
    return lab


def run(*argv: str, check: bool = True) -> str:
    """Run a command and give its standard output; a failure carries its standard error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def podman(*argv: str, check: bool = True) -> str:
    """Run podman on the lab's own storage."""
    return run(PODMAN, *argv, check=check)


class Steps:
    """Prints each step with its duration, and counts what was changed."""

    def __init__(self) -> None:
        self.changed = 0

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Count and time one change."""
        start = time.monotonic()
        yield
        self.changed += 1
        print(f"{text}: {time.monotonic() - start:.1f} s", flush=True)


def make_images(lab: Lab, steps: Steps) -> dict[str, str]:
    """Build the images that are missing; gives the image name of each Debian release."""
    names = {}
    for suite in sorted({host.debian for host in lab.hosts}):
        start = time.monotonic()
        word, name = run(str(HERE / "image"), suite, lab.image).split()
        names[suite] = name
        if word == "built":
            steps.changed += 1
            print(f"image {name}: {time.monotonic() - start:.1f} s", flush=True)
    return names


def make_files(lab: Lab, steps: Steps) -> None:
    """The SSH key of all labs, and what this lab's hosts see of this machine."""
    key = STATE / "ssh" / "id_ed25519"
    if not key.exists():
        with steps.step("ssh key"):
            key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            run(
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                "onprem-deepseek-lab",
                "-f",
                str(key),
            )
    lab.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    KEPT.mkdir(mode=0o700, exist_ok=True)
    proxy = f"http://{lab.controller('management')}:{CACHE_PORT}"
    files = {
        "authorized_keys": key.with_suffix(".pub").read_text(),
        "apt.conf": f'Acquire::http::Proxy "{proxy}";\nAcquire::Languages "none";\n',
    }
    for name, text in files.items():
        path = lab.directory / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            path.chmod(0o644)


def make_networks(lab: Lab, steps: Steps) -> None:
    """One internal network for each zone: hosts on it reach each other and nothing else."""
    existing = podman("network", "ls", "--format", "{{.Name}}").split()
    for zone in ZONES:
        name = f"{lab.name}-{zone}"
        if name not in existing:
            with steps.step(f"network {zone} {lab.subnet(zone)}"):
                remove_leftover(lab.controller(zone))
                podman(
                    "network", "create", "--internal", "--disable-dns",
                    "--label=onprem-deepseek-lab", f"--subnet={lab.subnet(zone)}", name,
                )  # fmt: skip
                # podman 4.3 cannot be told how to name it, and numbers those of each state alike.
                path = STATE / "podman" / "networks" / f"{name}.json"
                network = json.loads(path.read_text())
                path.write_text(json.dumps(network | {"network_interface": lab.bridge(zone)}))


def remove_leftover(address: str) -> None:
    """Remove a bridge without hosts that has the address: a lab that is gone has left it."""
    bridges = {link["ifname"] for link in ip("link", "show", "type", "bridge")}
    for link in ip("address", "show", "to", f"{address}/32"):
        if link["ifname"] in bridges and not ip("link", "show", "master", link["ifname"]):
            run("ip", "link", "delete", link["ifname"])


def ip(*argv: str) -> list[dict[str, Any]]:
    """Give what iproute2 finds, without the empty objects for what does not match."""
    return [one for one in json.loads(run("ip", "-json", *argv) or "[]") if one]


def check_inotify(hosts: int) -> None:
    """Refuse more hosts than there are inotify instances for: one too many hangs in its boot."""
    setting = Path("/proc/sys/fs/inotify/max_user_instances")
    limit, needed = int(setting.read_text()), hosts * INOTIFY_INSTANCES
    if needed > limit:
        raise LabError(
            f"{hosts} test hosts need {needed} inotify instances and this machine allows {limit}; "
            "destroy labs that are not in use, or raise the limit: "
            f"sysctl fs.inotify.max_user_instances={2 * needed}"
        )


def mac(address: str) -> str:
    """Give the MAC of an address, which stays the same after a restart, as a server's does."""
    return ":".join(["52", "54", *(f"{int(part):02x}" for part in address.split("."))])


def start_host(lab: Lab, host: Host, image: str, limits: list[str]) -> None:
    """Start one host from its image."""
    networks = [
        f"--network={lab.name}-{zone}:ip={ip},mac={mac(ip)}" for zone, ip in host.addresses.items()
    ]
    podman(
        "run", "--detach", "--replace", "--systemd=always", "--privileged",
        f"--name={lab.container(host)}", f"--hostname={host.name}", f"--label=lab={lab.name}",
        # as on an ordinary host: podman's own lets everybody write there
        "--tmpfs=/run:nosuid,nodev,mode=0755",
        # not this machine's own resolver, which no host of a site would know: here nothing answers
        f"--dns={lab.controller('management')}",
        f"--volume={lab.directory}/authorized_keys:/etc/ssh/lab_authorized_keys:ro",
        f"--volume={lab.directory}/apt.conf:/etc/apt/apt.conf.d/90lab:ro",
        f"--volume={KEPT}:/var/lib/onprem-deepseek-lab",
        *limits, *networks, image, "/sbin/init",
    )  # fmt: skip


def wait_until_running(lab: Lab, host: Host) -> str:
    """Wait for systemd and sshd; gives the host's known_hosts line."""
    deadline = time.monotonic() + BOOT_SECONDS
    address = host.addresses["management"]
    while time.monotonic() < deadline:
        state = podman(
            "exec", lab.container(host), "systemctl", "is-system-running", check=False
        ).strip()
        if state in ("running", "degraded") and answers(address, 22):
            key = podman("exec", lab.container(host), "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
            return f"{address} {' '.join(key.split()[:2])}\n"
        time.sleep(0.3)
    failed = podman(
        "exec", lab.container(host), "systemctl", "--failed", "--no-legend", check=False
    )
    raise LabError(
        f"{host.name}: systemd and sshd not ready on {address} after {BOOT_SECONDS} s; "
        f"failed units: {failed.strip() or 'none'}; "
        f"look inside with: {PODMAN} exec -it {lab.container(host)} bash"
    )


def answers(address: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def join_networks(lab: Lab) -> None:
    """Give this machine its address on the networks from which it reaches the hosts."""
    for zone in CONTROLLER_ZONES:
        if any(zone in host.addresses for host in lab.hosts):
            name = f"{lab.name}-{zone}"
            bridge = podman("network", "inspect", "--format", "{{.NetworkInterface}}", name).strip()
            run("ip", "address", "replace", f"{lab.controller(zone)}/24", "dev", bridge)


def start_daemon(name: str, *argv: str, user: str = "root") -> None:
    """Start a background process once, by its own pid file."""
    run(
        "start-stop-daemon", "--start", "--oknodo", "--background", "--chuid", user,
        "--make-pidfile", "--pidfile", str(STATE / f"{name}.pid"),
        "--exec", argv[0], "--", *argv[1:],
    )  # fmt: skip


def stop_daemon(name: str, program: str) -> None:
    """Stop what start_daemon started: only that process, and only if it still is that program."""
    pid_file = STATE / f"{name}.pid"
    run(
        "start-stop-daemon",
        "--stop",
        "--oknodo",
        "--retry",
        "5",
        "--pidfile",
        str(pid_file),
        "--exec",
        program,
    )
    pid_file.unlink(missing_ok=True)


def cache_port(process: Path, cache: Path) -> int:
    """Give the loopback port of this state's package cache: what it listens on, or a free one.

    *process* is the directory below /proc of what should be it; its process id may be another's.
    """
    try:
        arguments = (process / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        arguments = []
    if f"CacheDir={cache}" in arguments:
        (has,) = (one for one in arguments if one.startswith("Port="))
        return int(has.removeprefix("Port="))
    for port in CACHE_LOOPBACK_PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LabError(f"no port of 127.0.0.1 is free for the package cache: {CACHE_LOOPBACK_PORTS}")


def start_cache(lab: Lab, steps: Steps) -> None:
    """One package cache for a state's labs on loopback, forwarded onto this management network."""
    if answers(lab.controller("management"), CACHE_PORT):
        return
    with steps.step("package cache"):
        cache = STATE / "apt-cache"
        cache.mkdir(exist_ok=True)
        pid = STATE / "cache.pid"
        port = cache_port(Path("/proc", pid.read_text().strip() if pid.exists() else "none"), cache)
        shutil.chown(cache, "apt-cacher-ng", "apt-cacher-ng")
        # Without the packaged Remap lines, which send Debian's requests to other mirrors.
        settings = STATE / "apt-cache.conf"
        settings.mkdir(exist_ok=True)
        (settings / "acng.conf").write_text("ReportPage: acng-report.html\n")
        start_daemon(
            "cache", "/usr/sbin/apt-cacher-ng", "-c", str(settings), "ForeGround=1",
            "BindAddress=127.0.0.1", f"Port={port}",
            f"CacheDir={cache}", f"LogDir={cache}",
            user="apt-cacher-ng",
        )  # fmt: skip
        start_daemon(
            f"cache-{lab.name}", "/usr/bin/socat",
            f"TCP-LISTEN:{CACHE_PORT},bind={lab.controller('management')},reuseaddr,fork",
            f"TCP:127.0.0.1:{port}",
        )  # fmt: skip
        deadline = time.monotonic() + BOOT_SECONDS
        while not answers("127.0.0.1", port):
            if time.monotonic() > deadline:
                raise LabError(f"apt-cacher-ng does not answer on 127.0.0.1:{port}; see {cache}")
            time.sleep(0.2)


def up(lab: Lab, claims: Claims) -> int:
    """Make everything that is missing; gives the number of changes."""
    steps = Steps()
    claim(claims, lab.octet, lab.directory, len(lab.hosts))
    run(PODMAN, "--lab-start")
    images = make_images(lab, steps)
    make_files(lab, steps)
    make_networks(lab, steps)
    running = podman("ps", "--format", "{{.Names}}").split()
    check_inotify(len({*running, *map(lab.container, lab.hosts)}) + hosts_elsewhere(claims, STATE))
    limits = run(PODMAN, "--lab-limits").split()
    for host in lab.hosts:
        if lab.container(host) not in running:
            with steps.step(f"host {host.name} ({host.debian})"):
                start_host(lab, host, images[host.debian], limits)
    join_networks(lab)
    start_cache(lab, steps)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        keys = list(pool.map(lambda host: wait_until_running(lab, host), lab.hosts))
    (lab.directory / "known_hosts").write_text("".join(keys))
    (lab.directory / "ssh_config").write_text(ssh_config(lab))
    (lab.directory / "addresses.json").write_text(
        json.dumps({host.name: host.addresses for host in lab.hosts})
    )
    list_cgroups(lab)
    return steps.changed


def ssh_config(lab: Lab) -> str:
    """What an SSH client needs for the hosts, by name: ssh -F labs/NAME/ssh_config HOST.

    The connection is kept: tests ask a host many things (tests/lab/lab_hosts.py).
    """
    hosts = [f"Host {one.name}\n  HostName {one.addresses['management']}\n" for one in lab.hosts]
    return "".join(hosts) + (
        "Host *\n  User ops\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
        f"  IdentityFile {STATE / 'ssh' / 'id_ed25519'}\n"
        f"  UserKnownHostsFile {lab.directory / 'known_hosts'}\n"
        f"  ControlMaster auto\n  ControlPersist 60s\n  ControlPath {lab.directory}/%n\n"
    )


def list_cgroups(lab: Lab) -> None:
    """Write down where this machine counts what the hosts use (scenario_times.py)."""
    paths = podman(
        "inspect", "--format", "{{.State.CgroupPath}}", *map(lab.container, lab.hosts)
    ).split()
    # With a mount namespace of its own, podman has its cgroups there.
    pid_file = STATE / "namespace.pid"
    root = (
        Path("/proc", pid_file.read_text().split()[0], "root") if pid_file.exists() else Path("/")
    )
    listed = [f"{root / 'sys/fs/cgroup'}{path}\n" for path in paths]
    (lab.directory / "cgroups").write_text("".join(listed))


def down(lab: Lab, claims: Claims) -> int:
    """Remove this lab; with the last one, everything but the images and the package cache."""
    steps = Steps()
    if not STATE.exists():
        return 0
    run(PODMAN, "--lab-start")
    stop_daemon(f"cache-{lab.name}", "/usr/bin/socat")
    for name in podman(
        "ps", "--all", "--filter", f"label=lab={lab.name}", "--format", "{{.Names}}"
    ).split():
        with steps.step(f"host {name}"):
            podman("rm", "--force", "--time=0", "--volumes", name)
    existing = podman("network", "ls", "--format", "{{.Name}}").split()
    for zone in ZONES:
        if f"{lab.name}-{zone}" in existing:
            with steps.step(f"network {zone}"):
                podman("network", "rm", f"{lab.name}-{zone}")
    shutil.rmtree(lab.directory, ignore_errors=True)
    forget(claims, lab.directory)
    labs = STATE / "labs"
    if not labs.exists() or not any(labs.iterdir()):
        stop_daemon("cache", "/usr/sbin/apt-cacher-ng")
        run(PODMAN, "--lab-stop")
    return steps.changed


def purge(claims: Claims) -> int:
    """Remove every trace: all labs, images, keys and the package cache."""
    if not STATE.exists():
        return 0
    labs = STATE / "labs"
    for directory in sorted(labs.iterdir()) if labs.exists() else []:
        down(Lab(directory.name, 0, ()), claims)
    stop_daemon("cache", "/usr/sbin/apt-cacher-ng")
    run(PODMAN, "--lab-stop")
    for path in STATE.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if not STATE.is_mount():
        STATE.rmdir()
    return 1


def main() -> int:
    """Entry point; the exit status is 0 when everything asked for is so."""
    commands = {"up": up, "down": down}
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb not in (*commands, "purge"):
        print(f"usage: {sys.argv[0]} up|down < DESCRIPTION, or purge", file=sys.stderr)
        return 2
    if os.geteuid():
        print(
            "the lab needs root on this machine: it creates networks and containers",
            file=sys.stderr,
        )
        return 1
    try:
        lab = None if verb == "purge" else parse(sys.stdin.read())
        with one_at_a_time(LOCK) as claims:
            changed = purge(claims) if lab is None else commands[verb](lab, claims)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"changed={changed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
