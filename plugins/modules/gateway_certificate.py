#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_certificate
short_description: Exchange the certificate of a running HAProxy
version_added: "0.1.0"
description:
  - Makes sure that HAProxy serves the certificate in O(src) and that O(path) holds it for the next start.
  - A running HAProxy gets it through its runtime socket, without a restart and without losing a connection. Then a request over a new
    connection must show the new certificate; otherwise the present one is taken back and the file stays as it is.
  - Where nothing runs, only the file is written.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says whether the certificate would be exchanged.
    support: full
  diff_mode:
    description: Shows the fingerprints before and after.
    support: full
options:
  src:
    description: File on the host with the certificate, its chain, and the key or its PKCS#11 URI.
    type: path
    required: true
  path:
    description: File that HAProxy loads at its start. The running process knows the certificate by this name.
    type: path
    required: true
  socket:
    description: Runtime socket of HAProxy, with level V(admin). Without it only the file is written.
    type: path
  address:
    description: Address that HAProxy serves the certificate on.
    type: str
    required: true
  port:
    description: Port there.
    type: int
    default: 443
  server_name:
    description: Name that the certificate must carry.
    type: str
    required: true
  ca_file:
    description: File with the CA that must verify the certificate.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Serve the new certificate
  onprem.deepseek.gateway_certificate:
    src: /etc/deepseek/tls/gateway.pem
    path: /etc/deepseek/gateway/server.pem
    socket: /run/deepseek-gateway/admin.sock
    address: 10.0.20.11
    server_name: deepseek.example.org
    ca_file: /etc/deepseek/tls/ca.pem
"""

RETURN = r"""
fingerprint:
  description: SHA-256 fingerprint of the wanted certificate.
  type: str
  returned: success
running:
  description: Whether HAProxy was running and took the certificate at once.
  type: bool
  returned: success
seconds:
  description: Seconds from the order to the end of the first request that was answered with the new certificate; 0 if there was none.
  type: float
  returned: success
"""

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.certificate import (
    CertificateError,
    Listener,
    exchange,
    fingerprint_of,
    write,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.runtime_api import (
    HaproxyError,
    process_id,
)


def text_of(path):
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return ""


def is_running(control):
    """A socket may be left behind by a process that was killed."""
    if not control or not os.path.exists(control):
        return False
    try:
        process_id(control)
    except HaproxyError:
        return False
    return True


def work(module):
    params = module.params
    wanted, present = text_of(params["src"]), text_of(params["path"])
    fingerprint = fingerprint_of(wanted)
    changed, running, seconds = wanted != present, False, 0.0
    if changed and not module.check_mode:
        running = is_running(params["socket"])
        if running:
            listener = Listener(
                params["address"], params["port"], params["server_name"], params["ca_file"]
            )
            seconds = exchange(params["socket"], params["path"], wanted, present, listener)
        else:
            write(params["path"], wanted)
    before = fingerprint_of(present) if "BEGIN CERTIFICATE" in present else ""
    return {
        "changed": changed,
        "fingerprint": fingerprint,
        "running": running,
        "seconds": round(seconds, 3),
        "diff": {"before": f"{before}\n", "after": f"{fingerprint}\n"},
    }


def main():
    module = HostModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
            "socket": {"type": "path"},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "default": 443},
            "server_name": {"type": "str", "required": True},
            "ca_file": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except CertificateError as failure:
        module.fail_json(msg=str(failure), code=failure.code, remedy=failure.remedy)
    except HaproxyError as failure:
        module.fail_json(msg=str(failure), code="HAPROXY", remedy="see the log of the gateway")
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
