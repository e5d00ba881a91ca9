# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send requests from a test host, with its address and certificates (lab_hosts.py).

The argument is a list in JSON; what is printed is one, too: of each status, headers and body of the
answer.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from typing import Any


def answer_to(asked: dict[str, Any]) -> list[Any]:
    server = {"host": asked["address"], "port": asked["port"], "timeout": asked["timeout"]}
    connection = http.client.HTTPConnection(**server)
    if asked["tls"]:
        context = ssl.create_default_context(cafile=asked["ca"])
        if asked["certificate"]:
            context.load_cert_chain(*asked["certificate"])
        connection = http.client.HTTPSConnection(**server, context=context)
    body = asked["body"] and asked["body"].encode()
    try:
        connection.request(asked["method"], asked["path"], body, asked["headers"])
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return [answer.status, headers, answer.read().decode()]
    except (OSError, http.client.HTTPException) as error:
        return [0, {}, f"{type(error).__name__}: {error}"]


def main() -> None:
    print(json.dumps([answer_to(asked) for asked in json.loads(sys.argv[1])]))


if __name__ == "__main__":
    main()
