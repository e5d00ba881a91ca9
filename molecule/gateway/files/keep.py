"""Two requests over one connection, and a command between them: ``keep.py ADDRESS COMMAND...``."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys

context = ssl.create_default_context(cafile="/etc/deepseek/tls/ca.pem")
context.check_hostname = False
connection = http.client.HTTPSConnection(sys.argv[1], 443, context=context, timeout=300)


def ask() -> str:
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return str(response.status)


connection.connect()
# without a socket of its own, the second request would make another connection
connection.auto_open = 0
before = ask()
subprocess.run(sys.argv[2:], check=True)
print(before, ask())
