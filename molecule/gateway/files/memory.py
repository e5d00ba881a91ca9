"""Search the memory of every process for private keys; exit 0 if none of a token is among them.

``memory.py FILE...``: certificates or public keys of the keys that live in tokens. A process that
reads the host's own key from its file is started first and must be found, so that a search that
finds nothing says something. Prints which process has which key, by the hash of its public half.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST_KEY = "/etc/deepseek/tls/host.key"
HOLD = f"import time; key = open({HOST_KEY!r}).read(); print(len(key), flush=True); time.sleep(600)"
PEM = re.compile(
    rb"-----BEGIN ((?:EC |RSA )?PRIVATE KEY)-----[A-Za-z0-9+/=\r\n]{50,4000}-----END \1-----"
)
# ECPrivateKey of RFC 5915, in PKCS #8 and SEC 1: version 1 and the number, 32 bytes for P-256 and
# 48 for P-384.
DER = re.compile(rb"\x02\x01\x01\x04(?:\x20(.{32})|\x30(.{48}))", re.DOTALL)
LARGEST = 1 << 30
STEP = 1 << 24
OVERLAP = 1 << 13


def fingerprint(public) -> str:
    data = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(data).hexdigest()[:16]


def in_file(path: str) -> str:
    text = Path(path).read_bytes()
    if b"BEGIN CERTIFICATE" in text:
        return fingerprint(x509.load_pem_x509_certificate(text).public_key())
    return fingerprint(serialization.load_pem_public_key(text))


def keys_in(data: bytes) -> set[str]:
    found = set()
    for match in PEM.finditer(data):
        try:
            key = serialization.load_pem_private_key(match.group(), password=None)
        except ValueError:
            continue
        found.add(fingerprint(key.public_key()))
    for match in DER.finditer(data):
        number, curve = (
            (match.group(1), ec.SECP256R1()) if match.group(1) else (match.group(2), ec.SECP384R1())
        )
        try:
            key = ec.derive_private_key(int.from_bytes(number, "big"), curve)
        except ValueError:
            continue
        found.add(fingerprint(key.public_key()))
    return found


def regions(process: Path):
    for line in (process / "maps").read_text().splitlines():
        addresses, mode, *_rest = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        name = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
        if mode.startswith("r") and end - start <= LARGEST and name not in ("[vvar]", "[vsyscall]"):
            yield start, end


def keys_of(process: Path) -> tuple[set[str], int]:
    found, read = set(), 0
    with (process / "mem").open("rb", buffering=0) as memory:
        for start, end in regions(process):
            for offset in range(start, end, STEP):
                try:
                    memory.seek(offset)
                    data = memory.read(min(STEP + OVERLAP, end - offset))
                except OSError:
                    break
                read += len(data)
                found |= keys_in(data)
    return found, read


def main() -> int:
    tokens = {in_file(path): path for path in sys.argv[1:]}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    holder.stdout.readline()
    report, searched = {}, 0
    try:
        for process in Path("/proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            try:
                name = (process / "comm").read_text().strip()
                found, read = keys_of(process)
            except (OSError, ProcessLookupError):
                continue
            searched += read
            report[f"{process.name} {name}"] = sorted(found)
    finally:
        holder.kill()
    control = report.get(f"{holder.pid} {Path('/proc/self/comm').read_text().strip()}", [])
    leaked = {name: [tokens[key] for key in keys if key in tokens] for name, keys in report.items()}
    leaked = {name: paths for name, paths in leaked.items() if paths}
    print(
        json.dumps(
            {
                "processes": len(report),
                "bytes": searched,
                "control": len(control),
                "names": sorted({name.split(maxsplit=1)[1] for name in report}),
                "leaked": leaked,
            }
        )
    )
    return 1 if leaked or not control else 0


if __name__ == "__main__":
    sys.exit(main())
