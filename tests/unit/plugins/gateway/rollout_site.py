# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two gateways with watchdogs, a release host, and workers that do what a test says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gateway_pki import make_pki
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.action.host_programs import offer_of
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_programs import (
    Place,
    console_script,
    tree_of,
)

HAPROXY = shutil.which("haproxy", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
PROGRAMS = {
    "rollout": "rollout.command",
    "rollout-judge": "rollout.loop",
    "rollout-watchdog": "rollout.watchdog",
}
GATEWAYS = {"gateway-1": "client", "gateway-2": "gateway-2"}
# What a gateway allows a worker, for which the role has minutes, and how often its watchdog looks.
SERVER_SECONDS = 1
WATCH_SECONDS = 0.2

# What the role has for canaries: servers without weight, drawn for, and its retries.
CONFIGURATION = """
global
    stats socket {directory}/admin.sock mode 600 level admin
    maxconn 500
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server {seconds}s
    option redispatch 1
    retries 3
    retry-on conn-failure 425
frontend service
    bind 127.0.0.1:{port}
    http-request set-var(txn.model) req.hdr(x-model)
    http-request set-var(txn.share) var(txn.model),map_str_int({directory}/shares.map,0)
    http-request set-var(txn.thousandth) rand(1000)
    use_backend model:%[var(txn.model)]
frontend measures
    bind unix@{directory}/measures.sock mode 600
    http-request set-var(txn.worker) path
    http-request set-path /metrics
    default_backend measures
frontend metrics
    bind 127.0.0.1:{orders} ssl crt {directory}/host.pem ca-file {pki}/ca.pem verify required
    acl steers ssl_c_s_dn(cn) -m str release-1
    http-request deny deny_status 403 unless {{ path /rollout }} steers
    default_backend orders
backend orders
    timeout server 10s
    server watchdog unix@{directory}/watchdog.sock maxconn 1
"""
BACKEND = """
backend model:{model}
    balance leastconn
    http-reuse never
    acl drawn var(txn.thousandth),sub(txn.share) lt 0
    use-server canary:{model} if drawn
    server canary:{model} 127.0.0.1:{canary} weight 0
    server stable:{model} 127.0.0.1:{stable} weight 100
"""


MEASURED = """
    use-server measured-{number} if {{ var(txn.worker) -m str /{name} }}
    server measured-{number} 127.0.0.1:{port}
"""
# What workers count, as docs/reference/metrics.md has it, of which the judge takes this.
METRICS = """
deepseek_time_to_first_token_seconds_bucket{{le="2.5"}} {fast}
deepseek_time_to_first_token_seconds_bucket{{le="+Inf"}} {all}
deepseek_time_per_output_token_seconds_bucket{{le="0.1"}} {all}
deepseek_time_per_output_token_seconds_bucket{{le="+Inf"}} {all}
deepseek_generations_total{{key="one",reason="stop"}} {whole}
deepseek_generations_total{{key="one",reason="error"}} {broken}
deepseek_generations_total{{key="two",reason="stop"}} {whole}
deepseek_generations_total{{key="two",reason="error"}} {broken}
"""


class _Requests(BaseHTTPRequestHandler):
    """Answers as the mode of its server says."""

    protocol_version = "HTTP/1.1"
    server: Worker

    def do_GET(self) -> None:
        self._send(200, self.server.metrics().encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.taken += 1
        mode = self.server.mode
        if mode == "flapping":
            mode = "503" if self.server.taken % 10 < 5 else "answer"
        if mode != "answer":
            self.server.failing_since = self.server.failing_since or time.monotonic()
        if self.headers.get("x-wrong"):
            self._send(400)
        elif mode == "hang":
            self.server.over.wait(self.server.hangs_seconds)
        elif mode == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
        else:
            self._send(int(mode) if mode.isdigit() else 200)
        self.close_connection = True

    def _send(self, status: int, body: bytes = b"{}") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


class Worker(ThreadingHTTPServer):
    """A worker of a model."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.mode = "answer"
        self.taken = 0
        self.failing_since = 0.0
        self.hangs_seconds = SERVER_SECONDS * 2.0
        self.over = threading.Event()
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def metrics(self) -> str:
        """What it counted; with mode slow or broken, a tenth of that was so."""
        some, clients = self.taken // 10, self.taken // 2
        slow, broken = (some if self.mode == mode else 0 for mode in ("slow", "broken"))
        return METRICS.format(
            fast=self.taken - slow, all=self.taken, whole=clients - broken, broken=broken
        )

    def end(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class GatewayHost:
    """HAProxy and its watchdog."""

    def __init__(self, site: RolloutSite, name: str) -> None:
        self.name = name
        self.directory = site.directory / name
        (self.directory / "kept").mkdir(parents=True)
        shutil.copy(site.pki / f"{GATEWAYS[name]}.pem", self.directory / "host.pem")
        (self.directory / "shares.map").touch()
        self.port, self.orders = free_port(), free_port()
        text = CONFIGURATION.format(
            directory=self.directory,
            pki=site.pki,
            port=self.port,
            orders=self.orders,
            seconds=site.server_seconds,
        )
        for model, (canary, stable) in site.workers.items():
            text += BACKEND.format(model=model, canary=canary.port, stable=stable.port)
        text += "backend measures\n    retries 0\n"
        ports = {
            name: worker.port
            for model, pair in site.workers.items()
            for name, worker in zip((f"canary:{model}", f"stable:{model}"), pair, strict=True)
        }
        for number, (name, port) in enumerate(ports.items()):
            text += MEASURED.format(number=number, name=name, port=port)
        (self.directory / "haproxy.cfg").write_text(text)
        settings = {
            "control": str(self.directory / "admin.sock"),
            "shares": str(self.directory / "shares.map"),
            "metrics": str(self.directory / "measures.sock"),
            "metrics_seconds": 2.0,
            "objectives": {"first_token_seconds": 2.5, "token_seconds": 0.1},
            "directory": str(self.directory / "kept"),
            "socket": str(self.directory / "watchdog.sock"),
            "servers": site.servers,
            "interval_seconds": site.watch_seconds,
            "answer_seconds": site.answer_seconds,
            "judge": {},
        }
        (self.directory / "watchdog.json").write_text(json.dumps(settings))
        self._site = site
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.start_haproxy()
        self.start_watchdog()

    def start_haproxy(self) -> None:
        assert HAPROXY
        # that of a process that was killed
        (self.directory / "admin.sock").unlink(missing_ok=True)
        self._start("haproxy", [HAPROXY, "-db", "-f", str(self.directory / "haproxy.cfg")])
        until(lambda: self.is_up() or self.ended("haproxy"))
        assert not self.ended("haproxy"), (self.directory / "haproxy.log").read_text()

    def is_up(self) -> bool:
        """Whether HAProxy answers, which it does when it has all of its ports."""
        try:
            return bool(self.ask("show info"))
        except OSError:
            return False

    def start_watchdog(self) -> None:
        self._start(
            "watchdog",
            self._site.program("rollout-watchdog", str(self.directory / "watchdog.json")),
        )
        until(lambda: (self.directory / "watchdog.sock").exists() or self.ended("watchdog"))
        assert not self.ended("watchdog"), (self.directory / "watchdog.log").read_text()

    def _start(self, name: str, command: list[str]) -> None:
        log = (self.directory / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def ended(self, name: str) -> bool:
        return self.processes[name].poll() is not None

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.directory / "admin.sock"))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def share(self, model: str) -> int:
        """Thousandths that HAProxy gives the canary."""
        lines = self.ask(f"show map {self.directory}/shares.map").splitlines()
        found = [line.split() for line in lines if line.strip()]
        return max((int(value) for _id, key, value in found if key == model), default=0)


class RolloutSite:
    """All of it; a model for each thing that is tried, so that they are tried side by side."""

    def __init__(
        self,
        directory: Path,
        models: list[str],
        *,
        server_seconds: float = SERVER_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.server_seconds, self.watch_seconds = server_seconds, watch_seconds
        self.answer_seconds = settings.get("answer_seconds", 30.0)
        self.pki = directory / "pki"
        self.pki.mkdir()
        make_pki(self.pki, "deepseek.test")
        self.models = models
        self.workers = {model: (Worker(), Worker()) for model in models}
        self.servers = {
            model: {
                "backend": f"model:{model}",
                "canary": [f"canary:{model}"],
                "stable": [f"stable:{model}"],
            }
            for model in models
        }
        self._install()
        self.gateways = {name: GatewayHost(self, name) for name in GATEWAYS}
        self.records = directory / "records"
        self.records.mkdir()
        document = {
            "name": "release-1",
            "directory": str(self.records),
            "credentials": {
                "ca": str(self.pki / "ca.pem"),
                "crl": str(self.pki / "crl.pem"),
                "certificate": str(self.pki / "release.pem"),
                "private_key": str(self.pki / "release.pem"),
            },
            "gateways": {
                name: {"host": "127.0.0.1", "port": gateway.orders}
                for name, gateway in self.gateways.items()
            },
            "servers": self.servers,
            # longer than a busy machine keeps the release host from its turn
            "lease_seconds": 15,
            "settle_seconds": 3.0,
            "interval_seconds": 0.3,
            "answer_seconds": self.answer_seconds,
            "judge": {},
        }
        self.settings = directory / "release.json"
        self.settings.write_text(json.dumps({**document, **settings}))
        self.judge_process: subprocess.Popen[bytes] | None = None

    def _install(self) -> None:
        """The programs as a host has them: isolated, from a package of their own."""
        place = Place(str(self.directory / "lib"), str(self.directory / "bin"))
        offer = offer_of(PROGRAMS)
        for path, text in tree_of(offer, PROGRAMS).items():
            file = Path(place.package) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        Path(place.scripts).mkdir()
        for name, module in PROGRAMS.items():
            Path(place.script(name)).write_text(console_script(place, module))

    def program(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, "-IB", str(self.directory / "bin" / f"deepseek-{name}"), *arguments]

    def start(self) -> None:
        for gateway in self.gateways.values():
            gateway.start()
        self.start_judge()

    def start_judge(self) -> None:
        log = (self.directory / "judge.log").open("ab")
        command = self.program("rollout-judge", str(self.settings))
        self.judge_process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def kill_judge(self) -> None:
        assert self.judge_process
        self.judge_process.kill()
        self.judge_process.wait()
        self.judge_process = None

    def stop(self) -> None:
        if self.judge_process:
            self.kill_judge()
        for gateway in self.gateways.values():
            for name in list(gateway.processes):
                gateway.stop(name)
        workers = [worker for pair in self.workers.values() for worker in pair]
        # each looks twice a second whether it is to end
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(Worker.end, workers))

    def tell(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """What the command prints, as JSON; with another status its words."""
        done = subprocess.run(
            self.program("rollout", "--settings", str(self.settings), *arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if status == 0 else {"error": done.stderr}

    def prepare(self, model: str, *more: str, status: int = 0, steps: str = "50") -> dict[str, Any]:
        releases = ("--stable", f"1.0.0@{'a' * 64}", "--canary", f"1.1.0@{'b' * 64}")
        return self.tell("prepare", model, *releases, "--steps", steps, *more, status=status)

    def begin(self, model: str, steps: str = "50") -> None:
        self.prepare(model, steps=steps)
        self.tell("start", model)

    def record(self, model: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.records / f"{model}.json").read_text())
        return loaded

    def state(self, model: str) -> str:
        return str(self.record(model)["state"])

    def shares(self, model: str) -> list[int]:
        return [gateway.share(model) for gateway in self.gateways.values()]

    @contextlib.contextmanager
    def load(self, models: list[str], threads: int = 8, **headers: str) -> Iterator[Counter[str]]:
        """Requests to all models through both gateways until the end; the statuses, by model."""
        over = threading.Event()
        statuses: Counter[str] = Counter()
        names = list(self.gateways.values())

        def ask(number: int) -> None:
            turn = number
            while not over.is_set():
                model = models[turn % len(models)]
                gateway = names[(turn // len(models)) % len(names)]
                turn += 1
                statuses[f"{model} {request(gateway.port, model, headers)}"] += 1
                time.sleep(0.002)

        asking = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(threads)]
        for thread in asking:
            thread.start()
        try:
            yield statuses
        finally:
            over.set()
            for thread in asking:
                thread.join()


def request(port: int, model: str, headers: Mapping[str, str]) -> str:
    """The status of a request, or what became of it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", "/v1/chat/completions", b"{}", {"X-Model": model, **headers})
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
