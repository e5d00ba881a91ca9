"""Servers of others that load the signed checkpoint themselves, as processes on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from waiting import PATIENCE, http_client, until


@contextmanager
def real_server(
    arguments: Sequence[str], settings: Mapping[str, str], log: Path, port: int, seconds: float
) -> Iterator[httpx.Client]:
    """A client of the server, once it says that it is healthy; what it prints is in `log`."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            arguments,
            env={**os.environ, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            with http_client(f"http://127.0.0.1:{port}") as client:
                until(lambda: _listens(client, process, log), seconds)
                yield client
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


def _listens(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False
