#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_validate
short_description: Compare a host's NVIDIA GPUs with what they must be like
version_added: "0.1.0"
description:
  - Reads what M(onprem.deepseek.gpu_info) reads, and judges it by expectations. All that is wrong is found at once, each with a remedy.
  - It changes nothing, and puts no load on a GPU. What an idle GPU cannot show (bandwidth, heat under load) is not judged here.
  - A value that an expectation needs and NVML does not give counts as a failure.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.gpu
options:
  expectations:
    description:
      - What is expected. Each key replaces one default, and null means that it is not judged. The defaults are the recommended minimum
        of two A100 with 80 GB, in good health.
      - C(count) (2) is the number of GPUs that must answer; every GPU on the PCI bus must, too.
      - C(products) (null) are names or patterns of products, such as C(NVIDIA H100*).
      - C(memory_gb) (80) is the memory of each GPU in units of 10^9 bytes, at least.
      - C(compute_capability) (V(8.0)) is the compute capability of each GPU, at least. Put it in quotes.
      - C(driver) (V(580)) is the version of the driver, at least. That is the oldest that supports CUDA 13. Put it in quotes.
      - C(same_driver) (true) expects the kernel module that is loaded to be of the same version as the library.
      - C(ecc) (true) is the mode of ECC.
      - C(ecc_volatile_uncorrected) (0) and C(ecc_aggregate_uncorrected) (0) are the most uncorrected ECC errors since the driver was loaded, and in
        the GPU's life.
      - C(row_remap) (true) expects no remapping of a memory row to be pending or failed.
      - C(pcie_generation) (V(max)) and C(pcie_width) (V(max)) are what the link must have at least; V(max) is what GPU and slot support together.
        The generation of a GPU that rests in a performance state above P2 is judged by what is possible.
      - C(nvlinks) (V(all)) is how many NVLinks must be up. V(all) are those that the GPU has, which may be none; a PCIe card without a bridge may
        have none that is up.
      - C(fabric) (true) expects a GPU that is on an NVSwitch fabric to have joined it, which takes Fabric Manager.
      - C(throttle_reasons) ([gpu_idle]) are the reasons for lower clocks that are accepted, by the names that M(onprem.deepseek.gpu_info) gives.
      - C(temperature_celsius) (null) is the highest temperature, and C(temperature_margin_celsius) (10) the least distance from the one at which
        the GPU slows down.
      - C(power_limit_watts) (V(default)) is the least power limit; V(default) is that of the product.
      - C(persistence) (true) is the persistence mode.
      - C(mig) (false) is the MIG mode.
      - C(processes) ([deepseek-inference@*.service, deepseek-upstream.service]) are patterns of commands and systemd units that may use a GPU.
      - C(xids) ([]) are the numbers of Xids in the kernel log that are accepted.
    type: dict
    default: {}
  fail_on_problems:
    description: Fail if anything is not as expected. Otherwise RV(ok) says it.
    type: bool
    default: true
seealso:
  - module: onprem.deepseek.gpu_info
  - name: Xid Errors
    description: NVIDIA's list of Xids, which the remedies follow.
    link: https://docs.nvidia.com/deploy/xid-errors/
"""

EXAMPLES = r"""
- name: Refuse a host that is not at least two healthy A100 with 80 GB
  onprem.deepseek.gpu_validate:
    venv: /opt/deepseek/serving
  become: true

- name: Refuse a host that is not eight healthy H100 with all their NVLinks
  onprem.deepseek.gpu_validate:
    venv: /opt/deepseek/serving
    expectations:
      count: 8
      products: [NVIDIA H100 80GB HBM3]
      compute_capability: "9.0"
      driver: "580.65.06"
      pcie_generation: 5
      pcie_width: 16
      nvlinks: 18
  become: true

- name: Collect what is wrong without failing
  onprem.deepseek.gpu_validate:
    wheel: /srv/deepseek/wheels/nvidia_ml_py-13.615.71-py3-none-any.whl
    fail_on_problems: false
    expectations:
      ecc: null
  become: true
  register: gpu
"""

RETURN = r"""
ok:
  description: Whether everything is as expected.
  type: bool
  returned: always
checks:
  description: Everything that was judged.
  type: list
  elements: dict
  returned: always
  contains:
    subject:
      description: The host, or a GPU with its number and UUID.
      type: str
      returned: always
      sample: GPU 0 GPU-00000000-1111-2222-3333-444444444444
    name:
      description: The expectation that was judged, or C(nvml) for whether NVML answers at all.
      type: str
      returned: always
      sample: pcie_width
    ok:
      description: Whether it is met.
      type: bool
      returned: always
    detail:
      description: What was found, and what is expected.
      type: str
      returned: always
      sample: PCIe x8; GPU and slot support x16, at least x16 is expected.
    remedy:
      description: What to do, empty where nothing is to be done.
      type: str
      returned: always
problems:
  description: The checks that failed, each in one line.
  type: list
  elements: str
  returned: always
expectations:
  description: All expectations that were in force.
  type: dict
  returned: always
"""

from dataclasses import asdict

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.checks import judge
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.expectations import (
    ExpectationsError,
    expectations_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import arguments, read_host
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.verdict import problems_of


def main():
    module = HostModule(
        argument_spec={
            **arguments(),
            "expectations": {"type": "dict", "default": {}},
            "fail_on_problems": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        expectations = expectations_of(module.params["expectations"])
    except ExpectationsError as error:
        module.fail_json(msg=str(error))
    checks = judge(read_host(module), expectations)
    problems = problems_of(checks)
    result = {
        "changed": False,
        "ok": not problems,
        "checks": [asdict(check) for check in checks],
        "problems": problems,
        "expectations": asdict(expectations),
    }
    if problems and module.params["fail_on_problems"]:
        module.fail_json(msg="The GPUs are not as expected:\n" + "\n".join(problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
