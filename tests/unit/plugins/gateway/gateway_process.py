# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HAProxy with the role's configuration, and workers that do what a test says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from gateway_pki import make_pki
from gateway_worker import Worker
from played import KEPT_PYTHON, passed
from waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[4]
ROLE = ROOT / "roles/gateway"
SERVICE = "deepseek.test"
# Debian keeps it where only root looks.
HAPROXY = shutil.which("haproxy", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")

# As in its unit (MemoryDenyWriteExecute=): no memory that is writable and executable, now or later.
# PR_SET_MDWE of prctl(2), Linux 6.3; an older kernel refuses that, and the process runs unconfined.
CONFINED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# What tests run the gateway with, beside the defaults. All are rendered at once: Ansible is slow.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {
        "gateway_host_names": [
            "DNS:alias.test",
            "DNS:*.wild.test",
            "IP:192.0.2.7",
            "IP:2001:db8::7",
        ],
        "gateway_error_limit": 50,
    },
    "dual": {"gateway_listen_address": "::", "gateway_check_host": False},
    "quick": {
        "gateway_first_byte_timeout": "2s",
        "gateway_error_limit": 2,
        "gateway_breakages": 0,
        "gateway_worker_connections": 2,
        "gateway_queue": 1,
    },
    "counting": {"gateway_key_requests_per_minute": 5},
    "breaking": {"gateway_error_limit": 50, "__gateway_breakage_apart": "100ms"},
    "browsers": {"gateway_cors_origins": ["https://chat.example.org", "http://localhost:3000"]},
    "certificates": {
        "gateway_client_certificates": "listed",
        "gateway_client_certificate_paths": ["/v1/embeddings"],
    },
    "models": {"gateway_error_limit": 50, "gateway_key_requests_per_minute": 0},
    "sticky": {"gateway_canary_draw": "key", "gateway_key_requests_per_minute": 0},
    "listed": {
        "gateway_client_certificates": "listed",
        "gateway_canary_testers": ["inference-1"],
        "gateway_certificate_models": {"gateway-1": ["code"], "inference-1": ["tiny", "code"]},
    },
}


def release(model: str, workers: Iterable[str], **said: Any) -> dict[str, Any]:
    """As the filter onprem.deepseek.releases has it, as far as gateways look at it."""
    names = [f"inference-1:{worker}" for worker in workers]
    known = {"is_canary": False, "aliases": [], "fallback": ""}
    return {"model": model, "workers": names, **known, **said}


# Those of the variants with several models; the others have one, on two workers at most.
SIDE_BY_SIDE = [
    release("tiny", "ab", aliases=["tiny-latest", "org/tiny"]),
    release("tiny", "cf", is_canary=True),
    release("code", "d", aliases=["coder"], fallback="tiny"),
    release("other", "e"),
]
WITH_MODELS = ("models", "sticky", "listed")


class Reply:
    """What a client got back; without a status the connection ended before an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _blank, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if raw else 0
        self.headers = {
            name.lower(): value
            for name, _colon, value in (line.partition(": ") for line in lines[1:])
        }

    @property
    def error_code(self) -> str:
        """Of any answer that says one, a worker's included."""
        code: str = json.loads(self.body)["error"]["code"]
        return code

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


class Client:
    """One connection to the gateway."""

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        context = ssl.create_default_context(cafile=gateway.pki / "ca.pem")
        if options.get("certificate"):
            context.load_cert_chain(gateway.pki / options["certificate"])
        plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE)
        self.connection = context.wrap_socket(plain, server_hostname=SERVICE)

    def raw(self, request: bytes) -> Reply:
        """Send, and read one answer of a declared length, or all until the end."""
        with contextlib.suppress(OSError):
            self.connection.sendall(request)
        received = b""
        while True:
            try:
                part = self.connection.recv(65536)
            except OSError:
                part = b""
            received += part
            length = re.search(rb"(?im)^content-length: *(\d+)", received)
            whole = length and len(received.partition(b"\r\n\r\n")[2]) >= int(length[1])
            if not part or whole:
                return Reply(received)

    def ask(
        self,
        path: str = "/v1/chat/completions",
        *headers: tuple[str, str],
        method: str = "POST",
        body: bytes = b"{}",
    ) -> Reply:
        named = {name.lower() for name, _value in headers}
        more = [("Host", SERVICE)] if "host" not in named else []
        if method == "POST" and not named & {"content-length", "transfer-encoding"}:
            more.append(("Content-Length", str(len(body))))
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in [*more, *headers]),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return self.raw(head + (body if method == "POST" else b""))

    def close(self) -> None:
        self.connection.close()


class Gateway:
    """The process, its log, and what a client asks."""

    def __init__(self, directory: Path, pki: Path, port: int, workers: list[Worker]) -> None:
        self.pki, self.port, self.workers = pki, port, workers
        self.directory = directory
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(directory / "log"))
        self.log.settimeout(PATIENCE)
        self.process: subprocess.Popen[bytes]
        self.detour: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        if self.detour is None and (self.directory / "detour.cfg").exists():
            self.start_detour()
        self.process = self._run("haproxy.cfg", *options)
        until(self.listens)

    def start_detour(self) -> None:
        self.detour = self._run("detour.cfg")
        until(self._detour_listens)

    def _detour_listens(self) -> bool:
        """On both sockets; those of an earlier process may be left behind, and refuse."""
        for name in ("detour.sock", "refusals.sock"):
            with socket.socket(socket.AF_UNIX) as connection:
                if connection.connect_ex(str(self.directory / name)):
                    return False
        return True

    def _run(self, configuration: str, *options: str) -> subprocess.Popen[bytes]:
        assert HAPROXY, "haproxy is needed for these tests: run tests/packages"
        environment = {**os.environ, "GATEWAY_CLIENT_DIR": str(self.pki)}
        command = [sys.executable, "-c", CONFINED, HAPROXY, "-db"]
        command += ["-f", str(self.directory / configuration), *options]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
        )

    def listens(self) -> bool:
        assert self.process.poll() is None, self.check()
        with contextlib.suppress(OSError):
            reply = self.ask("/healthz", method="GET")
            return b"%d of %d " % (len(self.workers), len(self.workers)) in reply.body
        return False

    def check(self) -> str:
        assert HAPROXY
        done = subprocess.run(
            [HAPROXY, "-c", "-f", str(self.directory / "haproxy.cfg")],
            env={**os.environ, "GATEWAY_CLIENT_DIR": str(self.pki)},
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        return done.stdout + done.stderr

    def ask(self, *arguments: Any, **options: Any) -> Reply:
        certificate = options.pop("certificate", None)
        with contextlib.closing(Client(self, certificate=certificate)) as client:
            return client.ask(*arguments, **options)

    def command(self, text: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.directory / "admin.sock"))
            connection.sendall(text.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def logged(self, request_id: str) -> dict[str, Any]:
        """The line of a request; every line that is read on the way must be JSON."""
        while True:
            line = self.next_line()
            if line.get("request_id") == request_id:
                return line

    def next_line(self) -> dict[str, Any]:
        """The next line of a request or a connection."""
        while not (line := self._next_text()).startswith("{"):
            pass
        entry: dict[str, Any] = json.loads(line)
        return entry

    def notice(self, start: str) -> str:
        """The next of the lines in which HAProxy says something of itself and of workers."""
        while not (line := self._next_text()).startswith(start):
            pass
        return line

    def _next_text(self) -> str:
        # <30>Nov 27 00:00:00 haproxy[1]: text
        return self.log.recv(1 << 17).decode().partition("]: ")[2]

    def stop(self) -> None:
        for process in filter(None, (self.process, self.detour)):
            process.kill()
            process.wait()
        self.log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Named(Protocol):
    """What the gateway is told of a worker."""

    name: str
    port: int


def render(
    directory: Path,
    pki: Path,
    workers: Sequence[Named],
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
    service: str = SERVICE,
) -> dict[str, int]:
    """The role's configuration for each variant, below the directory; their ports."""
    role = directory / "roles/rendered"
    (role / "tasks").mkdir(parents=True)
    for part in ("defaults", "vars", "templates"):
        (role / part).symlink_to(ROLE / part)
    (role / "tasks/main.yml").write_text(
        yaml.safe_dump(
            [
                {
                    "ansible.builtin.template": {
                        "src": "{{ item }}.j2",
                        "dest": "{{ __gateway_runtime_dir }}/{{ item }}",
                    },
                    "loop": "{{ ['haproxy.cfg'] + (['detour.cfg'] if __gateway_detours else []) }}",
                }
            ]
        )
    )
    assert HAPROXY, "haproxy is needed for these tests: run tests/packages"
    version = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True, check=True).stdout
    ports = {name: free_port() for name in variants}
    alone = release("tiny", [worker.name for worker in workers[:2]])
    tasks = []
    for name, chosen in variants.items():
        own = directory / name
        own.mkdir()
        (own / "shares.map").touch()
        variables = {
            "__gateway_runtime_dir": str(own),
            "__gateway_log_socket": str(own / "log"),
            "gateway_config_dir": str(pki),
            "gateway_port": ports[name],
            "gateway_metrics_port": free_port(),
            "gateway_listen_address": "127.0.0.1",
            "gateway_metrics_address": "127.0.0.1",
            "gateway_threads": 2,
            "gateway_releases": SIDE_BY_SIDE if name in WITH_MODELS else [alone],
            "__gateway_detour_dir": str(own),
            "__gateway_state_dir": str(own),
            # without facts of this machine, and as if HAProxy came from its Debian
            "__gateway_bookworm": "version 3" not in version,
            **chosen,
        }
        tasks.append({"ansible.builtin.include_role": {"name": "rendered"}, "vars": variables})
    addresses = {"service": "127.0.0.1", "inference": "127.0.0.1", "management": "127.0.0.1"}
    hosts = {
        "gateway-1": {"deepseek_zone_addresses": addresses},
        "inference-1": {
            "deepseek_zone_addresses": addresses,
            "deepseek_workers": [{"name": worker.name, "port": worker.port} for worker in workers],
        },
    }
    site = {
        **yaml.safe_load((ROOT / "inventories/lab/group_vars/all/site.yml").read_text()),
        "deepseek_service_name": service,
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
    }
    groups = {"gateway": "gateway-1", "inference": "inference-1"}
    inventory = {
        "all": {
            "vars": site,
            "children": {group: {"hosts": {host: hosts[host]}} for group, host in groups.items()},
        }
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    play = {"hosts": "gateway", "gather_facts": False, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    passed(
        directory / "play.yml",
        inventory=directory / "hosts.yml",
        ANSIBLE_ROLES_PATH=str(directory / "roles"),
        **KEPT_PYTHON,
    )
    return ports


class Site:
    """Workers, and the gateway in each of its variants."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.pki = directory, directory / "pki"
        self.pki.mkdir()
        make_pki(self.pki, SERVICE)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pki / "worker.pem")
        context.load_verify_locations(self.pki / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        self.workers = [Worker(name, context) for name in "abcdef"]
        self.ports = render(directory, self.pki, self.workers)

    def gateway(self, variant: str) -> Gateway:
        workers = self.workers if variant in WITH_MODELS else self.workers[:2]
        return Gateway(self.directory / variant, self.pki, self.ports[variant], workers)
