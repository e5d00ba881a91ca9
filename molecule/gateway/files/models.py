"""Which workers answer to the name of a model that stands behind so many bytes of messages.

`models.py ADDRESS NAME BYTES REQUESTS`: every other request declares no length. Prints how many
answers each worker gave, by its port.
"""

from __future__ import annotations

import collections
import http.client
import json
import ssl
import sys


def main() -> None:
    address, name, size, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # as the openai SDK writes it: messages before model
    body = json.dumps({"messages": "x" * size, "model": name}).encode()
    context = ssl.create_default_context(cafile="/etc/deepseek/tls/ca.pem")
    workers: collections.Counter[int] = collections.Counter()
    connection = http.client.HTTPSConnection(address, 443, context=context, timeout=300)
    for number in range(requests):
        chunked = number % 2 == 1
        pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
        connection.request(
            "POST", "/v1/chat/completions", pieces if chunked else body, encode_chunked=chunked
        )
        response = connection.getresponse()
        said = json.loads(response.read())
        if response.status != http.HTTPStatus.OK:
            raise SystemExit(f"status {response.status}: {said}")
        workers[said["worker"]] += 1
        if response.will_close:
            connection.close()
    print(json.dumps(workers))


if __name__ == "__main__":
    main()
