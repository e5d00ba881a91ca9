# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTPS to an address whose certificate must carry another name, since hosts are known by names that no DNS has."""

from __future__ import annotations

import http.client
import ssl


class NamedConnection(http.client.HTTPSConnection):
    """A connection to an address; the certificate that is served there must have the name."""

    def __init__(
        self, name: str, address: str, port: int, seconds: float, context: ssl.SSLContext
    ) -> None:
        super().__init__(address, port, timeout=seconds, context=context)
        self._name = name
        self._tls = context

    def connect(self) -> None:
        """Connect, and verify who answers."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
