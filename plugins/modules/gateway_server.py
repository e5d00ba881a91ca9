#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_server
short_description: Take servers of a running HAProxy out of service, and put them back
version_added: "0.1.0"
description:
  - V(drain) sends the servers no more requests and waits for those that they have. It refuses to take out the last servers of a model
    that take requests, unless O(alone) allows it. A canary takes them while it has a share.
  - V(ready) sends them requests again, and waits until HAProxy has found them healthy.
  - A server that HAProxy does not know, and a HAProxy that does not run, is no error. There is nothing to take out then.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says whether a state would change.
    support: full
  diff_mode:
    description: There is none.
    support: none
options:
  socket:
    description: Runtime socket of HAProxy, with level V(admin).
    type: path
    required: true
  servers:
    description: The servers.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, C(HOST:WORKER), in the backend of its model.
        type: str
        required: true
      address:
        description: Address that it listens on.
        type: str
        required: true
      port:
        description: Port there.
        type: int
        required: true
  shares:
    description: Map of the shares of canaries that HAProxy has.
    type: path
    default: /var/lib/deepseek/gateway/shares.map
  state:
    description: What is wanted.
    type: str
    choices: [drain, ready]
    required: true
  timeout:
    description: Seconds to wait for the last request, or for the first healthy answer.
    type: int
    default: 30
  alone:
    description: Whether servers may be taken out although no other one takes requests.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Take a worker out of service
  onprem.deepseek.gateway_server:
    socket: /run/deepseek-gateway/admin.sock
    servers:
      - {name: "inference-1:main", address: 10.0.30.21, port: 8000}
    state: drain
"""

RETURN = r"""
running:
  description: Whether HAProxy was running.
  type: bool
  returned: success
requests:
  description: Requests that the servers still had when O(timeout) had passed.
  type: int
  returned: success
unknown:
  description: Servers that HAProxy does not know, or looks for at another address. Applying the role gateway tells it.
  type: list
  elements: str
  returned: success
"""

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.runtime_api import (
    HaproxyError,
    process_id,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.servers import (
    ServersError,
    drain,
    ready,
    servers_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.shares import (
    MAP,
    ShareError,
    shares_of,
)


def is_running(control):
    """A socket may be left behind by a process that was killed."""
    if not os.path.exists(control):
        return False
    try:
        process_id(control)
    except HaproxyError:
        return False
    return True


def work(module):
    params = module.params
    control, seconds = params["socket"], params["timeout"]
    wanted = {item["name"]: (item["address"], item["port"]) for item in params["servers"]}
    result = {"changed": False, "running": is_running(control), "requests": 0, "unknown": []}
    if not result["running"]:
        return result
    if module.check_mode:
        known = servers_of(control)
        draining = params["state"] == "drain"
        result["changed"] = any(known[name].drained != draining for name in wanted if name in known)
    elif params["state"] == "drain":
        result["changed"], result["requests"] = drain(
            control,
            list(wanted),
            seconds,
            params["alone"],
            lambda: shares_of(control, params["shares"]),
        )
    else:
        result["changed"], result["unknown"] = ready(control, wanted, seconds)
    return result


def main():
    server = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
    }
    module = HostModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "servers": {"type": "list", "elements": "dict", "required": True, "options": server},
            "shares": {"type": "path", "default": MAP},
            "state": {"type": "str", "choices": ["drain", "ready"], "required": True},
            "timeout": {"type": "int", "default": 30},
            "alone": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except ServersError as failure:
        module.fail_json(msg=f"{failure}: {failure.remedy}.", code=failure.code)
    except (HaproxyError, ShareError) as failure:
        module.fail_json(
            msg=f"{failure}: see the journal of deepseek-gateway.service.", code="HAPROXY"
        )
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
