#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: network_probe
short_description: Measure delay, loss, path MTU and bandwidth between two hosts
version_added: "0.1.0"
description:
  - Sends real packets between the hosts of an inventory, over the addresses of their choice, with nothing but Python on them.
  - One host listens, others probe it, and then it is told to stop. All three are tasks with this module and the same O(token).
  - The side that listens is a process that the task leaves behind for O(seconds) at most. The kernel ends it then, whatever became of
    the controller. It keeps nothing but its sockets, and is the user nobody where the task ran as root.
  - It answers only O(peers) that know the O(token), which itself is never sent, with no more bytes than they sent, but for a
    transfer, which O(transfer_seconds) and O(transfer_mb) limit.
  - It writes nothing on either host, so that it does the same in check mode.
  - A path MTU is the largest packet that is answered by one of the same size, none of them fragmented. Datagrams that a path swallows
    count as too large, so that a path whose routers do not say why is measured as well.
  - Times have what two Python programs take in them, about 0.1 ms. A bandwidth is that of one TCP connection.
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
  action:
    description:
      - With V(listen) the host answers others from now on, with V(stop) no longer.
      - With V(probe) it measures delay, loss and path MTU to O(targets), with V(transfer) the bandwidth, one target after the other.
    type: str
    choices: [listen, probe, transfer, stop]
    required: true
  token:
    description: Secret of this measurement, at least 16 characters; another one each time.
    type: str
    required: true
  port:
    description: Port of TCP and UDP on which is listened. Required unless O(action=stop).
    type: int
  addresses:
    description: Addresses of this host on which it listens.
    type: list
    elements: str
    default: []
  peers:
    description: Addresses from which it may be probed.
    type: list
    elements: str
    default: []
  targets:
    description: What is probed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the other host.
        type: str
        required: true
      zone:
        description: Name of the network, for the result.
        type: str
        default: ""
      address:
        description: Address of the other host.
        type: str
        required: true
      source:
        description: Address of this host from which is sent.
        type: str
        required: true
      mtu:
        description: MTU of the NIC that has O(targets[].source). No larger packet is tried.
        type: int
        default: 1500
  samples:
    description: How many echoes the delay and the loss are measured with.
    type: int
    default: 50
  seconds:
    description: How long is listened at most, or how long all targets may take together.
    type: float
    default: 60.0
  transfer_seconds:
    description: How long one transfer may take.
    type: float
    default: 1.0
  transfer_mb:
    description: How much one transfer may take, in units of 10^6 bytes.
    type: int
    default: 1000
notes:
  - Tell both sides the same O(transfer_seconds) and O(transfer_mb).
  - Two transfers of one host at the same time measure each other.
"""

EXAMPLES = r"""
- name: Listen
  onprem.deepseek.network_probe:
    action: listen
    token: "{{ probe_token }}"
    port: 8442
    addresses: [203.0.113.161]
    peers: [203.0.113.149, 203.0.113.150]
  delegate_to: storage-1

- name: Measure
  onprem.deepseek.network_probe:
    action: probe
    token: "{{ probe_token }}"
    port: 8442
    targets:
      - name: storage-1
        zone: storage
        address: 203.0.113.161
        source: 203.0.113.149
  register: measured

- name: Stop listening
  onprem.deepseek.network_probe:
    action: stop
    token: "{{ probe_token }}"
  delegate_to: storage-1
"""

RETURN = r"""
errors:
  description: For each address on which it cannot be listened, why.
  type: dict
  returned: with O(action=listen)
  sample: {203.0.113.161: another process has this port}
results:
  description: What was measured, in the order of O(targets).
  type: list
  elements: dict
  returned: with O(action=probe) or O(action=transfer)
  contains:
    name:
      description: The other host.
      type: str
      returned: always
    zone:
      description: The network.
      type: str
      returned: always
    source:
      description: The address from which was sent.
      type: str
      returned: always
    address:
      description: The address of the other host.
      type: str
      returned: always
    port:
      description: Its port.
      type: int
      returned: always
    mtu:
      description: The largest packet that was tried.
      type: int
      returned: always
    problem:
      description: Why nothing, or not everything, was measured; otherwise empty.
      type: str
      returned: always
      sample: no answer within 2 s
    blocked:
      description: The protocol that had no answer, V(tcp) or V(udp); otherwise empty.
      type: str
      returned: always
    sent:
      description: Echoes that were sent.
      type: int
      returned: always
    lost:
      description: Those of them that were not answered within 0.3 s.
      type: int
      returned: always
    rtt_ms:
      description: C(min), C(median), C(p99) and C(max) of the time until the answer, in milliseconds.
      type: dict
      returned: always
      sample: {min: 0.082, median: 0.11, p99: 0.21, max: 0.21}
    path_mtu:
      description: The largest packet in bytes that goes there and back in one piece, null when none was answered.
      type: int
      returned: always
    bandwidth_mbps:
      description: Rate in 10^6 bits per second C(to) the other host and C(from) it.
      type: dict
      returned: always
      sample: {to: 9411.2, from: 9413.8}
"""

import ipaddress
from dataclasses import asdict

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.network_probe import (
    Target,
    probe,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_service import (
    detach,
    open_sockets,
    serve,
    stop,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.probe_wire import Limits


def listen(params):
    """Start what answers; gives the addresses on which it cannot."""
    token, limits = params["token"].encode(), limits_of(params)
    sockets = open_sockets(params["addresses"], params["port"], token)
    if sockets.tcp:
        detach(
            lambda: serve(sockets, token, params["peers"], limits), sockets.all(), limits.seconds
        )
    sockets.close()
    return sockets.errors


def limits_of(params):
    return Limits(params["seconds"], params["transfer_seconds"], params["transfer_mb"] * 10**6)


def refused(params):
    """What is wrong with the arguments, or nothing."""
    texts = [*params["addresses"], *params["peers"]]
    for target in params["targets"]:
        texts += [target["address"], target["source"]]
    for text in texts:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return f"{text!r} is not an IP address"
    if len(params["token"]) < 16:
        return "token: it has less than 16 characters, which can be guessed"
    if params["port"] is not None and not 0 < params["port"] < 65536:
        return f"port: it is {params['port']}, and must be from 1 to 65535"
    for name, most in (
        ("seconds", 3600),
        ("transfer_seconds", 10),
        ("transfer_mb", 100000),
        ("samples", 10000),
    ):
        if not 0 < params[name] <= most:
            return f"{name}: it is {params[name]}, and must be more than 0 and at most {most}"
    return ""


def main():
    module = HostModule(
        argument_spec={
            "action": {
                "type": "str",
                "choices": ["listen", "probe", "transfer", "stop"],
                "required": True,
            },
            "token": {"type": "str", "required": True, "no_log": True},
            "port": {"type": "int"},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "peers": {"type": "list", "elements": "str", "default": []},
            "targets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "zone": {"type": "str", "default": ""},
                    "address": {"type": "str", "required": True},
                    "source": {"type": "str", "required": True},
                    "mtu": {"type": "int", "default": 1500},
                },
            },
            "samples": {"type": "int", "default": 50},
            "seconds": {"type": "float", "default": 60.0},
            "transfer_seconds": {"type": "float", "default": 1.0},
            "transfer_mb": {"type": "int", "default": 1000},
        },
        required_if=[("action", action, ["port"]) for action in ("listen", "probe", "transfer")],
        supports_check_mode=True,
    )
    params = module.params
    wrong = refused(params)
    if wrong:
        module.fail_json(msg=wrong)
    if params["action"] == "listen":
        module.exit_json(changed=False, errors=listen(params))
    if params["action"] == "stop":
        stop(params["token"].encode())
        module.exit_json(changed=False)
    results = probe(
        [Target(**target) for target in params["targets"]],
        params["token"].encode(),
        params["port"],
        params["samples"],
        params["seconds"],
        limits_of(params) if params["action"] == "transfer" else None,
    )
    module.exit_json(changed=False, results=[asdict(result) for result in results])


if __name__ == "__main__":
    main()
