#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: What preflight judges of a host and Ansible's facts do not have
version_added: "0.1.0"
description:
  - Finds the NIC of each of the host's addresses, with its MTU and its speed; whether the clock is kept by a time service; the size of
    the disk that the store is or will be on, and how fast it is read; and the GPUs on the PCI bus with their driver.
  - It changes nothing. The disk is read with O_DIRECT and never written to.
  - A speed that only a virtual NIC claims, and a disk that cannot be read past the cache, are unknown, and it says why.
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
  addresses:
    description: Addresses that the host should have, by zone.
    type: dict
    default: {}
  store:
    description: Directory of the store. Where it does not exist, the nearest directory above it counts.
    type: path
    default: /
  device:
    description: Block device that the store will be on. Until it is, the device counts instead of the directory.
    type: path
  read_seconds:
    description:
      - How long the disk is read to measure its rate, with 1 GiB at most; V(0) is not at all.
      - A large file of the store is read where there is one, otherwise the device. Never written parts of some disks are read faster than
        data.
    type: float
    default: 0.0
  venv:
    description: Virtual environment that will be asked for GPUs; RV(gpu.venv) says whether it is there.
    type: path
  controller_time:
    description: Time of the controller in seconds since 1970, which RV(clock.offset_seconds) is the distance to.
    type: float
"""

EXAMPLES = r"""
- name: Look at NICs, clock and disk
  onprem.deepseek.host_info:
    addresses: "{{ deepseek_zone_addresses }}"
    store: /srv/deepseek/store
    read_seconds: 1
    controller_time: "{{ now().timestamp() }}"
  become: true
  register: host
"""

RETURN = r"""
nics:
  description: The NIC that has the address of each zone, null where the host does not have the address.
  type: dict
  returned: always
  sample:
    storage: {address: 203.0.113.161, interface: eno1, mtu: 9000, speed_mbps: 25000, unknown: ""}
clock:
  description: The clock, and what keeps it.
  type: dict
  returned: always
  contains:
    service:
      description: The process that keeps it, empty where none runs.
      type: str
      returned: always
      sample: chronyd
    max_error_ms:
      description: The kernel's bound for its error in milliseconds.
      type: float
      returned: always
      sample: 21.5
    synchronised:
      description: Whether there is a service, and the bound is below 16 s, at which the kernel gives up.
      type: bool
      returned: always
    offset_seconds:
      description: The host's time less the controller's, null without O(controller_time).
      type: float
      returned: always
      sample: 0.4
disk:
  description: The disk of the store.
  type: dict
  returned: always
  contains:
    path:
      description: The directory or device that was looked at.
      type: str
      returned: always
      sample: /srv
    size:
      description: Bytes in all, null where it is not there.
      type: int
      returned: always
      sample: 960197124096
    free:
      description: Bytes free, null where it is not there.
      type: int
      returned: always
      sample: 900000000000
    read_mb_s:
      description: Rate of reading in 10^6 bytes per second, null where it was not measured.
      type: float
      returned: always
      sample: 2210.3
    read_from:
      description: The file or device that was read.
      type: str
      returned: always
      sample: /dev/nvme0n1p3
    unknown:
      description: Why something is null, otherwise empty.
      type: str
      returned: always
gpu:
  description: NVIDIA's GPUs, without asking them.
  type: dict
  returned: always
  contains:
    pci:
      description: Their PCI addresses.
      type: list
      elements: str
      returned: always
      sample: ["0000:3b:00.0"]
    driver:
      description: Version of the driver that is loaded, or null.
      type: str
      returned: always
      sample: 580.159.04
    venv:
      description: Whether O(venv) is there.
      type: bool
      returned: always
"""

import os
import time
from dataclasses import asdict

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import host_of
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.snapshot import Snapshot
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import host_state


def read_nics(module):
    ip = module.get_bin_path("ip", required=True, opt_dirs=["/sbin", "/usr/sbin"])
    text = module.run_command([ip, "-json", "address", "show"], check_rc=True)[1]
    nics = host_state.nics_of(
        module.params["addresses"], host_state.links_in(text), host_state.ROOT
    )
    return {zone: asdict(nic) if nic else None for zone, nic in nics.items()}


def read_clock(controller_time):
    offset = None if controller_time is None else round(time.time() - controller_time, 1)
    service, error = host_state.time_service(host_state.ROOT), host_state.clock_error_ms()
    return {
        "service": service,
        "max_error_ms": error,
        "synchronised": bool(service) and error < host_state.UNSYNCHRONISED_MS,
        "offset_seconds": offset,
    }


def main():
    module = HostModule(
        argument_spec={
            "addresses": {"type": "dict", "default": {}},
            "store": {"type": "path", "default": "/"},
            "device": {"type": "path"},
            "read_seconds": {"type": "float", "default": 0.0},
            "venv": {"type": "path"},
            "controller_time": {"type": "float"},
        },
        supports_check_mode=True,
    )
    params = module.params
    # first, for everything else takes time
    clock = read_clock(params["controller_time"])
    disk = host_state.disk_of(
        params["store"], params["device"] or "", min(params["read_seconds"], 30.0), host_state.ROOT
    )
    gpus = host_of(Snapshot(), host_state.ROOT, [], "")
    module.exit_json(
        changed=False,
        nics=read_nics(module),
        clock=clock,
        disk=asdict(disk),
        gpu={
            "pci": list(gpus.pci_gpus),
            "driver": gpus.kernel_module,
            "venv": os.path.exists(os.path.join(params["venv"] or "", "bin", "python")),
        },
    )


if __name__ == "__main__":
    main()
