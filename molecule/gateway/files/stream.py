"""Seconds until the first event of a stream arrived, and until its end."""

from __future__ import annotations

import http.client
import ssl
import sys
import time


def main() -> None:
    context = ssl.create_default_context(cafile="/etc/deepseek/tls/ca.pem")
    connection = http.client.HTTPSConnection(sys.argv[1], 443, context=context, timeout=300)
    connection.request("POST", "/v1/chat/completions", body=b'{"stream": true}')
    response = connection.getresponse()
    start = time.monotonic()
    first = response.read1(100)
    arrived = time.monotonic() - start
    rest = response.read()
    print(
        response.status,
        first == b"data: first\n\n",
        rest == b"data: second\n\n",
        f"{arrived:.1f}",
        f"{time.monotonic() - start:.1f}",
    )


if __name__ == "__main__":
    main()
