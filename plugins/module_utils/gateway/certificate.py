# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exchange the certificate of a running HAProxy, without a restart.

HAProxy takes a certificate as a transaction (`set ssl cert`, then `commit ssl cert`; HAProxy Management Guide, section
9.3) and refuses one whose key it cannot use. What it then serves is asked for over a new connection, since only a
whole handshake proves that the key signs.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..common.refusals import RefusalError
from .named_connection import NamedConnection
from .runtime_api import ask

PROBE_SECONDS = 10


class CertificateError(RefusalError):
    """The gateway does not serve the new certificate."""


@dataclass(frozen=True)
class Listener:
    """Where the gateway is asked what it serves, and the CA file and name that must verify it."""

    address: str
    port: int
    server_name: str
    ca_file: str


def fingerprint_of(pem: str) -> str:
    """SHA-256 of the first certificate of a PEM text, in lower-case hex."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start, stop = pem.find(begin), pem.find(end)
    if start < 0 or stop < start:
        raise CertificateError(
            "CERTIFICATE", "the new file holds no certificate.", "issue the certificate again."
        )
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[start : stop + len(end)])
    except ValueError as error:
        raise CertificateError(
            "CERTIFICATE",
            f"the new certificate cannot be read: {error}.",
            "issue the certificate again.",
        ) from error
    return hashlib.sha256(der).hexdigest()


def probe(listener: Listener) -> str:
    """Make a request over a new connection; the SHA-256 fingerprint of the certificate that was served."""
    context = ssl.create_default_context(cafile=listener.ca_file)
    connection = NamedConnection(
        listener.server_name, listener.address, listener.port, PROBE_SECONDS, context
    )
    try:
        connection.request("GET", "/healthz")
        served = _served_by(connection)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise CertificateError(
            "PROBE",
            f"{listener.address}:{listener.port} gives no answer over TLS: {error}.",
            "see the log of the gateway.",
        ) from error
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise CertificateError(
            "PROBE",
            f"{listener.address}:{listener.port} answers /healthz with status {status}.",
            "see the log of the gateway.",
        )
    return served


def _served_by(connection: NamedConnection) -> str:
    served = connection.sock.getpeercert(binary_form=True) or b""
    return hashlib.sha256(served).hexdigest()


def commit(control: str, path: str, pem: str) -> None:
    """Have the running HAProxy use this text in place of the file at path; nothing changes if it refuses."""
    for command, payload in ((f"set ssl cert {path}", pem), (f"commit ssl cert {path}", "")):
        answer = ask(control, command, payload)
        if (
            "Transaction created" in answer
            or "Transaction updated" in answer
            or "Success" in answer
        ):
            continue
        ask(control, f"abort ssl cert {path}")
        raise CertificateError(
            "REFUSED",
            f"HAProxy refuses the new certificate at {command.split(' /', maxsplit=1)[0]!r}: {' '.join(answer.split())}. It goes on with the present one.",
            "check that the key in the token belongs to the certificate (onprem.deepseek.pkcs11_info with prove: true).",
        )


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Replace a file as a whole."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def exchange(
    control: str,
    path: str,
    pem: str,
    present: str,
    listener: Listener,
    ask_listener: Callable[[Listener], str] = probe,
) -> float:
    """Serve pem instead of present, prove it with a request, then write the file; seconds until that request was answered.

    When the request fails or shows another certificate, the present one is taken back.
    """
    start = time.monotonic()
    wanted = fingerprint_of(pem)
    commit(control, path, pem)
    try:
        served = ask_listener(listener)
        if served != wanted:
            raise CertificateError(
                "NOT_SERVED",
                f"{listener.address}:{listener.port} serves certificate {served} instead of {wanted}.",
                "check that the address is the gateway's own, and that no other process listens there.",
            )
    except CertificateError:
        if present:
            commit(control, path, present)
        raise
    seconds = time.monotonic() - start
    write(path, pem)
    return seconds
