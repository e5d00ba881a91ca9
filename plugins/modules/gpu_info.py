#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Say which NVIDIA GPUs a host has and how they are
version_added: "0.1.0"
description:
  - Asks NVML for everything that it says about each GPU, and the kernel for what it sees and has logged.
  - A host without GPU, driver or binding is no failure. RV(problem) then says why there are no facts.
  - A value that NVML does not give is null, and RV(gpus[].errors) has the reason.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.gpu
seealso:
  - module: onprem.deepseek.gpu_validate
"""

EXAMPLES = r"""
- name: Ask with the binding of the serving environment
  onprem.deepseek.gpu_info:
    venv: /opt/deepseek/serving
  become: true
  register: gpu

- name: Ask with a wheel that was copied to the host, without installing anything
  onprem.deepseek.gpu_info:
    wheel: /srv/deepseek/wheels/nvidia_ml_py-13.615.71-py3-none-any.whl
  become: true
  register: gpu

- name: Show what there is
  ansible.builtin.debug:
    msg: "{{ gpu.problem.detail if gpu.problem else gpu.gpus | map(attribute='product') }}"
"""

RETURN = r"""
driver:
  description: Version of the driver, null if NVML does not answer.
  type: str
  returned: success
library:
  description: Version of the driver that the NVML library belongs to.
  type: str
  returned: success
kernel_module:
  description: Version of the kernel module that is loaded, null if none is.
  type: str
  returned: success
cuda:
  description: Newest version of CUDA that the driver supports.
  type: str
  returned: success
problem:
  description: Why NVML does not answer, with C(code), C(detail) and C(remedy); null if it does.
  type: dict
  returned: success
gpus:
  description: Each GPU, by NVML's index.
  type: list
  elements: dict
  returned: success
  contains:
    index:
      description: NVML's number of the GPU.
      type: int
      returned: always
    problem:
      description: Why this GPU does not answer, as RV(problem). Everything else is null then, but for what it said before it was lost.
      type: dict
      returned: always
    errors:
      description: For each value that is null, by its name, what NVML said in its place.
      type: dict
      returned: always
    codes:
      description: The same with NVML's code, where it gave one.
      type: dict
      returned: always
    product:
      description: Name of the product.
      type: str
      returned: always
    uuid:
      description: UUID, as the site variable C(deepseek_workers) takes it.
      type: str
      returned: always
    serial:
      description: Serial number of the board.
      type: str
      returned: always
    pci_bus_id:
      description: PCI address.
      type: str
      returned: always
    vbios:
      description: Version of the VBIOS.
      type: str
      returned: always
    compute_capability:
      description: CUDA compute capability.
      type: str
      returned: always
    memory_total_bytes:
      description: Size of the memory; RV(gpus[].memory_used_bytes) of it are in use.
      type: int
      returned: always
    memory_used_bytes:
      description: Memory in use, that of the driver included.
      type: int
      returned: always
    persistence_mode:
      description: Whether the driver stays loaded without a client.
      type: bool
      returned: always
    performance_state:
      description: Number of the performance state, 0 is the fastest.
      type: int
      returned: always
    utilization_percent:
      description: Share of the last sampling period in which a kernel ran.
      type: int
      returned: always
    mig_mode:
      description: Whether the GPU is divided (MIG); RV(gpus[].mig_mode_pending) is the mode after its next reset.
      type: bool
      returned: always
    mig_mode_pending:
      description: MIG mode after the next reset.
      type: bool
      returned: always
    ecc_mode:
      description: Whether ECC is on; RV(gpus[].ecc_mode_pending) is the mode after its next reset.
      type: bool
      returned: always
    ecc_mode_pending:
      description: ECC mode after the next reset.
      type: bool
      returned: always
    ecc_volatile_corrected:
      description: Corrected errors since the driver was loaded.
      type: int
      returned: always
    ecc_volatile_uncorrected:
      description: Uncorrected errors since the driver was loaded.
      type: int
      returned: always
    ecc_aggregate_corrected:
      description: Corrected errors in the GPU's life.
      type: int
      returned: always
    ecc_aggregate_uncorrected:
      description: Uncorrected errors in the GPU's life.
      type: int
      returned: always
    remapped_rows_corrected:
      description: Memory rows remapped after corrected errors.
      type: int
      returned: always
    remapped_rows_uncorrected:
      description: Memory rows remapped after uncorrected errors.
      type: int
      returned: always
    remapped_rows_pending:
      description: Whether a row waits for the next reset to be remapped.
      type: bool
      returned: always
    remapped_rows_failed:
      description: Whether a row could not be remapped.
      type: bool
      returned: always
    retired_pages_pending:
      description: Whether a page waits to be retired, on GPUs before Ampere.
      type: bool
      returned: always
    pcie_generation:
      description: PCIe generation of the link now; an idle link is slower than a busy one.
      type: int
      returned: always
    pcie_generation_max:
      description: PCIe generation that GPU and slot support together.
      type: int
      returned: always
    pcie_generation_gpu:
      description: PCIe generation that the GPU supports.
      type: int
      returned: always
    pcie_width:
      description: Lanes of the link now.
      type: int
      returned: always
    pcie_width_max:
      description: Lanes that GPU and slot support together.
      type: int
      returned: always
    pcie_replays:
      description: Packets that had to be sent again since the GPU was reset.
      type: int
      returned: always
    clock_graphics_mhz:
      description: Clock of the graphics engine.
      type: int
      returned: always
    clock_sm_mhz:
      description: Clock of the streaming multiprocessors.
      type: int
      returned: always
    clock_memory_mhz:
      description: Clock of the memory.
      type: int
      returned: always
    clock_graphics_max_mhz:
      description: Highest clock of the graphics engine.
      type: int
      returned: always
    clock_sm_max_mhz:
      description: Highest clock of the streaming multiprocessors.
      type: int
      returned: always
    clock_memory_max_mhz:
      description: Highest clock of the memory.
      type: int
      returned: always
    throttle_reasons:
      description: What holds the clocks down.
      type: list
      elements: str
      returned: always
      sample: [gpu_idle]
    power_usage_watts:
      description: Power in use.
      type: float
      returned: always
    power_limit_watts:
      description: Power limit in force.
      type: float
      returned: always
    power_limit_default_watts:
      description: Power limit after a reset.
      type: float
      returned: always
    power_limit_min_watts:
      description: Lowest power limit that can be set.
      type: float
      returned: always
    power_limit_max_watts:
      description: Highest power limit that can be set.
      type: float
      returned: always
    temperature_celsius:
      description: Temperature of the GPU.
      type: int
      returned: always
    temperature_margin_celsius:
      description: How far the temperature is below the one at which the GPU slows down, where NVML says it (Hopper and later).
      type: int
      returned: always
    temperature_slowdown_celsius:
      description: Temperature at which the GPU slows down.
      type: int
      returned: always
    temperature_shutdown_celsius:
      description: Temperature at which the GPU shuts down.
      type: int
      returned: always
    fabric_state:
      description: Whether the GPU has joined an NVSwitch fabric.
      type: str
      choices: [not_supported, not_started, in_progress, completed]
      returned: always
    fabric_status:
      description: NVML's code for how joining the fabric ended; 0 is success.
      type: int
      returned: always
    nvlinks:
      description: Each NVLink that the GPU has, with C(link), C(active), C(version) and C(error).
      type: list
      elements: dict
      returned: always
    processes:
      description: Each process on the GPU, with C(pid), C(kind), C(memory_bytes), C(command) and the systemd C(unit) that it runs in.
      type: list
      elements: dict
      returned: always
pci_gpus:
  description: PCI addresses of all NVIDIA GPUs that the kernel sees, with a driver or without, less those given to virtual machines.
  type: list
  elements: str
  returned: success
xids:
  description: Each kind of Xid in the kernel log since the host started, with C(pci), C(number), C(count), C(message), C(meaning) and C(remedy).
  type: list
  elements: dict
  returned: success
log_problem:
  description: Why the kernel log could not be read, empty if it could. It takes root.
  type: str
  returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import (
    arguments,
    facts,
    read_host,
)


def main():
    module = HostModule(argument_spec=arguments(), supports_check_mode=True)
    module.exit_json(changed=False, **facts(read_host(module)))


if __name__ == "__main__":
    main()
