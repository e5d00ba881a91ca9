"""Status and code of what a gateway says to bodies that declare no length, of the sizes given."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from collections.abc import Iterator

PIECE = 1 << 16


def pieces(size: int) -> Iterator[bytes]:
    """White space around an empty object."""
    for start in range(0, size - 2, PIECE):
        yield b" " * min(PIECE, size - 2 - start)
    yield b"{}"


def main() -> None:
    context = ssl.create_default_context(cafile="/etc/deepseek/tls/ca.pem")
    for size in map(int, sys.argv[2:]):
        connection = http.client.HTTPSConnection(sys.argv[1], 443, context=context, timeout=300)
        connection.request("POST", "/v1/chat/completions", pieces(size), encode_chunked=True)
        response = connection.getresponse()
        said = json.loads(response.read())
        print(response.status, said.get("error", {}).get("code", "-"))


if __name__ == "__main__":
    main()
