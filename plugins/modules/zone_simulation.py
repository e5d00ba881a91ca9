#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_simulation
short_description: Whether the packet filter of this host lets clients in, tried with packets
version_added: "0.1.0"
description:
  - Makes two network namespaces with a wire between them, one with this host's addresses and the table that it has loaded, one with the
    addresses of clients, and opens connections from the second to the first.
  - So a client of any address can be tried without being there, and nothing of it is seen on a real network.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing on the host.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  table:
    description: Name of the table, of family C(inet). Without such a table nothing is filtered, and everything is let in.
    type: str
    required: true
  needs:
    description:
      - Connections over TCP, mappings with C(source), C(target) (an address of this host) and C(port), and with C(why) what sorts them.
        Other keys are ignored, so that what P(onprem.deepseek.zone_needs#filter) returns can be given.
      - Of more than 512, so many are tried, the same each time. Of each target, port and C(why) these are the lowest and the highest source
        and others spread evenly between.
    type: list
    elements: dict
    required: true
  seconds:
    description: For how long an answer is waited for.
    type: float
    default: 1.0
requirements:
  - root, nft, and ip, unshare and nsenter
"""

EXAMPLES = r"""
- name: Try whether a client is let in
  onprem.deepseek.zone_simulation:
    table: deepseek_zones
    needs:
      - {source: 198.51.100.77, target: 198.51.100.11, port: 443}
  register: tried
"""

RETURN = r"""
outcomes:
  description: What became of each connection that was tried, C(reached) if it was let in.
  type: list
  elements: str
  returned: success
  sample: [reached, silent]
needed:
  description: How many connections were given, of which as many were tried as there are RV(outcomes).
  type: int
  returned: success
  sample: 2
refused:
  description: The needs that were not let in.
  type: list
  elements: dict
  returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import module_runner
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.nftables import (
    NftablesError,
    Table,
    listing,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.probe import REACHED
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.simulation import (
    sample,
    simulate,
)


def main():
    module = HostModule(
        argument_spec={
            "table": {"type": "str", "required": True},
            "needs": {"type": "list", "elements": "dict", "required": True},
            "seconds": {"type": "float", "default": 1.0},
        },
        supports_check_mode=True,
    )
    run, needed = module_runner(module), module.params["needs"]
    try:
        needs = sample(needed)
        content = listing(run, Table(module.params["table"], ""), counted=True)
        outcomes = simulate(run, content, needs, module.params["seconds"]) if needs else []
    except (KeyError, ValueError, OSError, NftablesError) as error:
        module.fail_json(msg=f"{module.params['table']}: {error}")
    refused = [need for need, outcome in zip(needs, outcomes) if outcome != REACHED]
    module.exit_json(changed=False, outcomes=outcomes, refused=refused, needed=len(needed))


if __name__ == "__main__":
    main()
