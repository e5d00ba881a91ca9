# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell systemd how a service stands (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send a state, such as READY=1; without a service manager nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with connected(address) as connection:
            connection.send(state.encode())


def connected(address: str) -> socket.socket:
    """Return a socket to the service manager at what NOTIFY_SOCKET names, a path or an abstract name. Raises OSError."""
    if address.startswith("@"):
        address = "\0" + address[1:]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
