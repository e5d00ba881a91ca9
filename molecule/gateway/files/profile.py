"""What a listener accepts, held against Mozilla's intermediate profile (Server Side TLS 5.7).

Exit 0 if it fits. Each protocol version and each cipher that OpenSSL knows is offered alone.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import warnings

CA = "/etc/deepseek/tls/ca.pem"
VERSIONS = {"TLSv1.2", "TLSv1.3"}
CIPHERS = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-CHACHA20-POLY1305",
}
HSTS_SECONDS = 63072000


def context(version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=CA)
    made.check_hostname = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.minimum_version = made.maximum_version = version
    return made


def accepted(address: str, offered: ssl.SSLContext) -> str | None:
    """The cipher of a handshake, None where there is none."""
    try:
        with (
            socket.create_connection((address, 443), timeout=300) as plain,
            offered.wrap_socket(plain) as connection,
        ):
            return connection.cipher()[0]
    except (ssl.SSLError, ConnectionError):
        return None


def tls12_ciphers() -> list[str]:
    listed = subprocess.run(
        ["/usr/bin/openssl", "ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.strip().split(":") if name]


def hsts(address: str) -> int:
    """Seconds for which browsers insist on TLS."""
    offered = context(ssl.TLSVersion.TLSv1_3)
    with (
        socket.create_connection((address, 443), timeout=300) as plain,
        offered.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    line = next(
        line
        for line in answer.splitlines()
        if line.lower().startswith(b"strict-transport-security")
    )
    return int(line.rpartition(b"max-age=")[2].split(b";")[0])


def main() -> int:
    address = sys.argv[1]
    versions, ciphers = set(), set()
    for version in (
        ssl.TLSVersion.TLSv1,
        ssl.TLSVersion.TLSv1_1,
        ssl.TLSVersion.TLSv1_2,
        ssl.TLSVersion.TLSv1_3,
    ):
        offered = context(version)
        offered.set_ciphers("ALL:@SECLEVEL=0")
        if cipher := accepted(address, offered):
            versions.add(version.name.replace("_", "."))
            ciphers.add(cipher)
    for name in tls12_ciphers():
        offered = context(ssl.TLSVersion.TLSv1_2)
        try:
            offered.set_ciphers(f"{name}:@SECLEVEL=0")
        except ssl.SSLError:
            continue
        if cipher := accepted(address, offered):
            ciphers.add(cipher)
    seconds = hsts(address)
    print(sorted(versions), sorted(ciphers), seconds)
    return 0 if versions == VERSIONS and ciphers <= CIPHERS and seconds >= HSTS_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
