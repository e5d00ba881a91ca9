"""How long the tests wait for what must come.

A limit is there to end a test that hangs, and judges no speed: a machine that is ten times slower
must pass every test. A shorter limit stands only where it is what the test is about.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

PATIENCE = 300.0
"""Seconds after which what has not come will not come."""


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look until it is true; `patience` in seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"it did not come in {patience:.0f} s"
        time.sleep(0.005)


def http_client(url: str = "", **options: Any) -> httpx.Client:
    """A client that waits for a busy server; httpx gives up after 5 s."""
    return httpx.Client(base_url=url, timeout=PATIENCE, **options)


def connect_plain(port: int) -> socket.socket:
    """A connection to a busy server on this machine, before any TLS."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
