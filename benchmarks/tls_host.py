# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of tls.py that runs on a gateway.

Uses a token, certificates and ports of its own, and what role gateway has installed; the gateway
goes on beside it. PYTHONPATH must be the directory of the programs that the role has installed.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_host.gateway import (
    certificate as gateway_certificate,
)
from deepseek_host.gateway import runtime_api as haproxy
from deepseek_host.pkcs11.certificates import (
    certificate_pem,
)
from deepseek_host.pkcs11.encoding import (
    key_uri,
    uri_pem,
)
from deepseek_host.pkcs11.issuing import (
    Wanted,
    self_signed,
)
from deepseek_host.pkcs11.objects import KeySpec
from deepseek_host.pkcs11.session import open_library
from deepseek_host.pkcs11.token_keys import token_key

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
OPENSSL_CONF = "/etc/deepseek/gateway/openssl.cnf"
NAME = "bench.internal"
PIN = "bench-pin-1"
PORTS = {"token": 18443, "file": 18444}
ROUNDS = 3
CLIENTS = 8
EXCHANGES = 6
CONFIGURATION = """
global
    stats socket {directory}/{kind}.sock mode 600 level admin
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend bench
    bind 127.0.0.1:{port} ssl crt {directory}/{kind}.pem ssl-min-ver TLSv1.3
    http-request return status 200 content-type text/plain string ok
"""


@dataclass
class Gateway:
    """One HAProxy with one thread."""

    port: int
    process: subprocess.Popen[bytes]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def token_certificates(folder: Path) -> list[str]:
    """Two certificates of two keys in one new token, each with the reference to its key."""
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    wanted = Wanted(NAME, (f"DNS:{NAME}",), "server", 2, 1)
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    texts = []
    with open_library(SOFTHSM) as library:
        library.initialise_token("bench", "bench-so-pin-1", PIN)
        with library.session("bench", PIN) as session:
            for label in ("one", "two"):
                session.generate(label, KeySpec())
                key = token_key(session, label)
                certificate = self_signed(wanted, key, now)
                uri = uri_pem(key_uri("bench", label))
                texts.append(certificate_pem(certificate) + uri)
    return texts


def file_certificate(folder: Path) -> str:
    """The same with a key in a file."""
    key, certificate = folder / "file.key", folder / "file.crt"
    subprocess.run(
        [
            *("/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-noenc"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2", "-subj", f"/CN={NAME}"),
            *(
                "-addext",
                f"subjectAltName=DNS:{NAME}",
                "-keyout",
                str(key),
                "-out",
                str(certificate),
            ),
        ],
        check=True,
        capture_output=True,
    )
    return certificate.read_text() + key.read_text()


@contextlib.contextmanager
def running(folder: Path, kind: str) -> Iterator[Gateway]:
    """HAProxy with the certificate of this kind, until the end of the block."""
    configuration = folder / f"{kind}.cfg"
    configuration.write_text(CONFIGURATION.format(folder=folder, kind=kind, port=PORTS[kind]))
    environment = dict(os.environ)
    if kind == "token":
        environment |= {"OPENSSL_CONF": OPENSSL_CONF, "GATEWAY_PIN_FILE": str(folder / "pin")}
        if not Path("/etc/debian_version").read_text().startswith("12"):
            environment["LD_PRELOAD"] = SOFTHSM
    with subprocess.Popen(
        ["/usr/sbin/haproxy", "-db", "-f", str(configuration)], env=environment
    ) as process:
        control = str(folder / f"{kind}.sock")
        for _try in range(100):
            with contextlib.suppress(haproxy.HaproxyError):
                haproxy.process_id(control)
                break
            time.sleep(0.05)
        yield Gateway(PORTS[kind], process)
        process.kill()


def handshakes(gateway: Gateway, mode: str, seconds: int) -> tuple[float, float]:
    """Handshakes per second of one client, and CPU seconds of the server for each."""
    before, start = gateway.cpu_seconds(), time.monotonic()
    done = subprocess.run(
        [
            *("/usr/bin/openssl", "s_time", "-connect", f"127.0.0.1:{gateway.port}"),
            *(mode, "-www", "/", "-time", str(seconds)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    passed = time.monotonic() - start
    counts = [int(count) for count in re.findall(r"(\d+) connections in \d+ real", done.stdout)]
    # s_time makes one session first where it is to be taken up again
    made = counts[-1]
    return made / passed, (gateway.cpu_seconds() - before) / made


def requests(gateway: Gateway, seconds: float) -> float:
    """Requests per second over connections that are kept."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    counts = [0] * CLIENTS
    end = time.monotonic() + seconds

    def client(place: int) -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=context)
        while time.monotonic() < end:
            connection.request("GET", "/")
            connection.getresponse().read()
            counts[place] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def exchanges(folder: Path, texts: list[str]) -> list[float]:
    """Seconds from each order to exchange a certificate to the first answer with it."""
    path = folder / "token.pem"
    listener = gateway_certificate.Listener(
        "127.0.0.1", PORTS["token"], NAME, str(folder / "ca.pem")
    )
    seconds = []
    for turn in range(EXCHANGES):
        present, wanted = path.read_text(), texts[(turn + 1) % 2]
        control = str(folder / "token.sock")
        seconds.append(gateway_certificate.exchange(control, str(path), wanted, present, listener))
    return seconds


def measure(folder: Path, seconds: int) -> dict[str, Any]:
    texts = token_certificates(folder)
    (folder / "pin").write_text(PIN)
    (folder / "pin").chmod(0o400)
    (folder / "token.pem").write_text(texts[0])
    (folder / "file.pem").write_text(file_certificate(folder))
    (folder / "ca.pem").write_text("".join(texts))
    values: dict[str, dict[str, list[float]]] = {}

    def note(measure: str, kind: str, value: float) -> None:
        values.setdefault(measure, {}).setdefault(kind, []).append(value)

    with running(folder, "token") as token, running(folder, "file") as file:
        # by turns, so that whatever else the machine does falls on both
        for _round in range(ROUNDS):
            for kind, gateway in (("token", token), ("file", file)):
                rate, cpu = handshakes(gateway, "-new", seconds)
                note("full handshakes", kind, rate)
                note("CPU of a full handshake", kind, cpu * 1e6)
                note("resumed handshakes", kind, handshakes(gateway, "-reuse", seconds)[0])
                note("requests over kept connections", kind, requests(gateway, seconds))
        swaps = exchanges(folder, texts)
    result: dict[str, Any] = {
        measure: {kind: statistics.median(list_) for kind, list_ in kinds.items()}
        for measure, kinds in values.items()
    }
    result["exchange"] = {"median": statistics.median(swaps), "slowest": max(swaps)}
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        measured = json.dumps(measure(Path(name), int(sys.argv[1])))
    print(f"measured:{base64.b64encode(measured.encode()).decode()}:")


if __name__ == "__main__":
    main()
