# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send one HTTPS request from a test host, with its address and certificates (lab_hosts.py).

The argument is JSON; what is printed is JSON, too: status, headers and body of the answer.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys


def main() -> None:
    asked = json.loads(sys.argv[1])
    context = ssl.create_default_context(cafile=asked["ca"])
    if asked["certificate"]:
        context.load_cert_chain(*asked["certificate"])
    connection = http.client.HTTPSConnection(
        asked["address"], asked["port"], context=context, timeout=300
    )
    body = asked["body"] and asked["body"].encode()
    try:
        connection.request(asked["method"], asked["path"], body, asked["headers"])
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        said = [answer.status, headers, answer.read().decode()]
    except OSError as error:
        said = [0, {}, str(error)]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
