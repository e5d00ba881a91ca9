#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_probe
short_description: Try connections with real packets, and say what became of each
version_added: "0.1.0"
description:
  - Tries TCP connections, UDP datagrams and ICMP echo, over IPv4 and IPv6, many at once.
  - Nothing has to listen on the other side. A host that lets a packet in refuses it with a reset or an ICMP error, which proves that the
    packet got through. A UDP service that listens and does not answer looks as if it was not reached.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  probes:
    description:
      - What is tried, mappings with C(target) (an address), C(protocol) (V(tcp), V(udp) or V(icmp)), C(port) for TCP and UDP, and perhaps
        C(source), the address of this host to do it from, which other network namespaces choose themselves.
      - Other keys are ignored, so that what P(onprem.deepseek.zone_probes#filter) returns can be given.
    type: list
    elements: dict
    required: true
  seconds:
    description: For how long an answer is waited for. A probe that stays silent is tried twice.
    type: float
    default: 1.0
  namespaces:
    description: Try the same from every other network namespace of the host, which is where containers are.
    type: bool
    default: false
requirements:
  - root, for ICMP and for other network namespaces
"""

EXAMPLES = r"""
- name: See whether a storage host can be reached from here
  onprem.deepseek.zone_probe:
    probes:
      - {target: 10.1.4.31, protocol: tcp, port: 8443}
      - {target: "fd00:1:4::31", protocol: udp, port: 53}
      - {target: 10.1.4.31, protocol: icmp}
  register: tried
"""

RETURN = r"""
probes:
  description: What was tried, as it was given.
  type: list
  elements: dict
  returned: success
outcomes:
  description:
    - What became of each probe, in their order. C(reached) if an answer came back, C(silent) if none did, C(denied here) if this host
      did not let the packet out, C(no route), or C(failed) with what the kernel said.
  type: list
  elements: str
  returned: success
  sample: [reached, silent, denied here]
namespaces:
  description: The other network namespaces, each with its C(pid) and C(command) and its C(outcomes).
  type: list
  elements: dict
  returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.zones.probe import (
    inside,
    namespaces,
    probe_all,
)


def outcomes_inside(namespace, probes, seconds):
    unbound = [{**probe, "source": None} for probe in probes]
    return {
        "pid": namespace.pid,
        "command": namespace.command,
        "outcomes": inside(namespace, lambda: probe_all(unbound, seconds)),
    }


def main():
    module = HostModule(
        argument_spec={
            "probes": {"type": "list", "elements": "dict", "required": True},
            "seconds": {"type": "float", "default": 1.0},
            "namespaces": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    probes, seconds = module.params["probes"], module.params["seconds"]
    try:
        others = namespaces() if module.params["namespaces"] else []
        module.exit_json(
            changed=False,
            probes=probes,
            outcomes=probe_all(probes, seconds),
            namespaces=[outcomes_inside(each, probes, seconds) for each in others],
        )
    except (KeyError, ValueError, OSError) as error:
        module.fail_json(msg=f"the probes could not be made: {error!r}")


if __name__ == "__main__":
    main()
