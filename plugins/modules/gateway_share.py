#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_share
short_description: Set which share of a model's requests a gateway sends to its canary
version_added: "0.1.0"
description:
  - Changes the share in the running HAProxy and in the file that it starts with, and reads both back. A reload, a restart and a boot keep it.
  - Fails on any doubt. A share that was to be raised is then what it was before; one that was to be lowered is lower where that was possible.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says whether the share would change.
    support: full
  diff_mode:
    description: Shows the share before and after, in HAProxy and in the file.
    support: full
options:
  socket:
    description: Runtime socket of HAProxy, with level V(admin).
    type: path
    default: /run/deepseek-gateway/admin.sock
  map:
    description: File of the shares, by the name that HAProxy knows it by.
    type: path
    default: /var/lib/deepseek/gateway/shares.map
  model:
    description: The model. A share above 0 needs a canary of it at this gateway.
    type: str
    required: true
  thousandths:
    description: The share in thousandths, 0 to 500.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Send 5 percent of the requests to the canary
  onprem.deepseek.gateway_share:
    model: deepseek-r1-distill-qwen-32b
    thousandths: 50

- name: Send the canary no more requests
  onprem.deepseek.gateway_share:
    model: deepseek-r1-distill-qwen-32b
    thousandths: 0
"""

RETURN = r"""
share:
  description: The share that HAProxy has, in thousandths; in check mode the one that it would have.
  type: int
  returned: success
before:
  description: The share that it had before.
  type: int
  returned: success
"""

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.runtime_api import (
    HaproxyError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.servers import ServersError
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.shares import (
    MAP,
    MOST,
    SOCKET,
    ShareError,
    set_share,
    shares_of,
    written_in,
)


def told(running, written):
    return f"running: {running} thousandths\nat the next start: {'unknown' if written is None else f'{written} thousandths'}\n"


def work(module):
    params = module.params
    control, path, model = params["socket"], params["map"], params["model"]
    wanted = params["thousandths"]
    if not 0 <= wanted <= MOST:
        raise ShareError(f"a share is 0 to {MOST} thousandths, and not {wanted}")
    running = shares_of(control, path).get(model, 0)
    try:
        written = written_in(path).get(model, 0)
    except ShareError:
        # the file is replaced
        written = None
    changed = {running, written} != {wanted}
    if changed and not module.check_mode:
        set_share(control, path, model, wanted)
    return {
        "changed": changed,
        "share": wanted,
        "before": running,
        "diff": {"before": told(running, written), "after": told(wanted, wanted)},
    }


def main():
    module = HostModule(
        argument_spec={
            "socket": {"type": "path", "default": SOCKET},
            "map": {"type": "path", "default": MAP},
            "model": {"type": "str", "required": True},
            "thousandths": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except ShareError as failure:
        module.fail_json(msg=f"{failure}.", code="SHARE")
    except ServersError as failure:
        module.fail_json(msg=f"{failure}: {failure.remedy}.", code=failure.code)
    except (HaproxyError, OSError) as failure:
        module.fail_json(
            msg=f"{failure}: see the journal of deepseek-gateway.service.", code="HAPROXY"
        )
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
