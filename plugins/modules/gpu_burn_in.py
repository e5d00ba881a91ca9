#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_burn_in
short_description: Load a host's NVIDIA GPUs for a limited time and judge what they reach
version_added: "0.1.0"
description:
  - Puts a load on every GPU at once, measures it, and compares it with the datasheet of the product and with the other GPUs.
  - First the bandwidth between GPU and host is measured through pinned memory, one GPU after the other and for half a second in each
    direction. Then all GPUs copy within their memory for three seconds, and multiply bf16 matrices for O(seconds). NVML is asked meanwhile.
  - Each product has a checksum, which must be the same in every iteration and on every GPU of the same product; part of the first product is
    computed in another way, too, and compared.
  - It refuses GPUs that are in use, and GPUs that are divided (MIG). It installs nothing, and leaves nothing on the host.
  - The load is a process of its own for each GPU. What does not end in time is killed.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
options:
  venv:
    description:
      - Virtual environment with the packages cuda-bindings, nvidia-cublas, nvidia-cuda-nvrtc and nvidia-ml-py, as the serving environment is where the
        engine's flavour is C(onnxruntime_cuda).
      - Without it, the Python that runs this module is taken.
    type: path
  wheels:
    description:
      - Wheels of those packages on the host, for the same version of Python. They are unpacked to a temporary directory, which takes about 1 GB and
        may not be mounted with C(noexec). Directories with unpacked packages are used where they lie.
      - They are preferred to what the Python has. Libraries that are in neither are taken from the system.
    type: list
    elements: path
    default: []
  seconds:
    description: How long matrices are multiplied.
    type: float
    default: 60.0
  matrix_size:
    description: Rows and columns of the matrices, a multiple of 64. Smaller ones than the default do not fill a large GPU.
    type: int
    default: 8192
  memory_fraction:
    description: Part of the free memory of each GPU that is written and read, from 0.01 to 0.95.
    type: float
    default: 0.8
  timeout:
    description:
      - Seconds that everything but the products may take, and NVML before and after. Without persistence mode, the driver takes seconds to start
        each GPU.
      - All is over after O(seconds) and this time, and 15 seconds more if something hangs.
    type: float
    default: 120.0
  allow_busy:
    description: Load GPUs that are in use as well. That disturbs whatever uses them, and the figures are lower.
    type: bool
    default: false
  expectations:
    description:
      - What must be reached. Each key replaces one default, and null means that it is not judged. Checksums are always judged.
      - C(matrix_tflops) (V(datasheet)) is the least rate of the matrix product in TFLOP/s. V(datasheet) is C(matrix_fraction) of the dense bf16 peak
        in the datasheet.
      - C(matrix_fraction) (V(product)) is the part of that peak; V(product) is 0.6 for modules (SXM), and 0.35 for cards, whose power
        limit is lower. An H100 module that is at its limit of 700 W reaches 0.69.
      - C(matrix_spread) (0.1) is by how much the slowest GPU may be below the fastest one of the same product.
      - C(copy_gb_per_second) (V(datasheet)) is the least bandwidth of a copy within the memory in units of 10^9 bytes per second, each byte that is
        read and each that is written counted. V(datasheet) is C(copy_fraction) of the bandwidth in the datasheet.
      - C(copy_fraction) (V(product)) is the part of that bandwidth; V(product) is 0.8 for HBM and 0.7 for GDDR.
      - C(copy_spread) (0.05) is as C(matrix_spread), for copies.
      - C(host_to_device_gb_per_second) (V(link)) and C(device_to_host_gb_per_second) (V(link)) are the least bandwidths between host and GPU. V(link) is
        C(link_fraction) of what the PCIe generation and width allow that GPU and slot support together.
      - C(link_fraction) (0.6) is that part. A link with half of its lanes is below it.
      - C(throttle_reasons) ([gpu_idle, sw_power_cap]) are the reasons for lower clocks under load that are accepted. Reaching the power limit is ordinary.
      - C(temperature_celsius) (null) is the highest temperature, and C(temperature_margin_celsius) (3) the least distance from the one at which the
        GPU slows down.
      - C(ecc_uncorrected) (0) and C(ecc_corrected) (null) are the most ECC errors during the load.
      - C(row_remap) (true) expects no remapping of a memory row to be pending or failed afterwards.
      - C(xids) ([]) are the numbers of Xids that may be logged during the load.
    type: dict
    default: {}
  fail_on_problems:
    description: Fail if anything is not as expected, or if the GPUs were refused. Otherwise RV(ok) says it.
    type: bool
    default: true
requirements:
  - NVIDIA's driver with its libraries libcuda.so.1 and libnvidia-ml.so.1
  - cuda-bindings >= 12.8, nvidia-cublas and nvidia-cuda-nvrtc of the same major version of CUDA, nvidia-ml-py >= 12.535
attributes:
  check_mode:
    description: Checks its arguments, and loads nothing.
    support: partial
    details: A load cannot be predicted. The task is skipped.
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
seealso:
  - module: onprem.deepseek.gpu_validate
"""

EXAMPLES = r"""
- name: Refuse a host with a GPU that does not reach what its datasheet promises
  onprem.deepseek.gpu_burn_in:
    venv: /opt/deepseek/serving
  become: true

- name: Load a host for ten minutes before it goes into service, and expect more of it
  onprem.deepseek.gpu_burn_in:
    venv: /opt/deepseek/serving
    seconds: 600
    memory_fraction: 0.95
    expectations:
      matrix_fraction: 0.65
      matrix_spread: 0.05
      ecc_corrected: 0
  become: true

- name: Measure a product whose datasheet this collection does not know
  onprem.deepseek.gpu_burn_in:
    wheels:
      - /srv/deepseek/wheels/cuda_bindings-13.5.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl
      - /srv/deepseek/wheels/nvidia_cublas-13.10.0.20-py3-none-manylinux_2_27_x86_64.whl
      - /srv/deepseek/wheels/nvidia_cuda_nvrtc-13.5.37-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
      - /srv/deepseek/wheels/nvidia_ml_py-13.615.71-py3-none-any.whl
    expectations:
      matrix_tflops: 120
      copy_gb_per_second: 3200
  become: true
  register: burn_in
"""

RETURN = r"""
ok:
  description: Whether the GPUs were loaded and everything is as expected.
  type: bool
  returned: when it was not skipped
checks:
  description: Everything that was judged.
  type: list
  elements: dict
  returned: when it was not skipped
  contains:
    subject:
      description: The host, or a GPU with its number and UUID.
      type: str
      returned: always
      sample: GPU 0 GPU-00000000-1111-2222-3333-444444444444
    name:
      description:
        - The expectation that was judged. C(load) is whether the load ran to its end, C(checksum) and C(checksums) whether what was computed is right on
          each GPU and the same on all.
        - C(nvml), C(gpus), C(mig) and C(processes) are why nothing was loaded.
      type: str
      returned: always
      sample: matrix_tflops
    ok:
      description: Whether it is met.
      type: bool
      returned: always
    detail:
      description: What was measured, and what is expected.
      type: str
      returned: always
    remedy:
      description: What to do, empty where nothing is to be done.
      type: str
      returned: always
problems:
  description: The checks that failed, each in one line.
  type: list
  elements: str
  returned: when it was not skipped
expectations:
  description: All expectations that were in force.
  type: dict
  returned: when it was not skipped
gpus:
  description: What was measured of each GPU; empty if nothing was loaded. What was not measured is null.
  type: list
  elements: dict
  returned: when it was not skipped
  contains:
    index:
      description: NVML's number of the GPU.
      type: int
      returned: always
    uuid:
      description: Its UUID.
      type: str
      returned: always
    product:
      description: Name of the product.
      type: str
      returned: always
    error:
      description: Why the load did not run to its end, empty if it did.
      type: str
      returned: always
    matrix_tflops:
      description: Rate of the bf16 matrix product in TFLOP/s, the time for checksums not counted.
      type: float
      returned: always
    copy_gb_per_second:
      description: Bandwidth of a copy within the memory, reading and writing counted.
      type: float
      returned: always
    host_to_device_gb_per_second:
      description: Bandwidth from pinned memory of the host to the GPU.
      type: float
      returned: always
    device_to_host_gb_per_second:
      description: Bandwidth from the GPU to pinned memory of the host.
      type: float
      returned: always
    rates:
      description: Rate of the product over time, as pairs of the seconds since the products began and TFLOP/s.
      type: list
      elements: list
      returned: always
    iterations:
      description: How many products were computed.
      type: int
      returned: always
    mismatches:
      description: How many of them have another checksum than the first; RV(gpus[].first_mismatch) is the number of the earliest.
      type: int
      returned: always
    first_mismatch:
      description: Number of the earliest product with another checksum.
      type: int
      returned: always
    checksum:
      description: Checksum of the first product.
      type: str
      returned: always
    inspected:
      description: How many elements of the first product were computed in another way as well; RV(gpus[].wrong) of them differ by more than rounding.
      type: int
      returned: always
    wrong:
      description: How many of the inspected elements are wrong.
      type: int
      returned: always
    copy_equal:
      description: Whether a copy within the memory is equal to its source.
      type: bool
      returned: always
    host_equal:
      description: Whether data is the same after its way to the host and back.
      type: bool
      returned: always
    memory_bytes:
      description: How much memory was written and read.
      type: int
      returned: always
    multiprocessors:
      description: Number of multiprocessors of the GPU.
      type: int
      returned: always
    cublas:
      description: Version of cuBLAS, as the library gives it.
      type: int
      returned: always
    samples:
      description:
        - What NVML said during the load, about once a second, as C(seconds) since the beginning, C(phase), C(temperature_celsius),
          C(temperature_margin_celsius), C(clock_sm_mhz), C(clock_memory_mhz), C(power_usage_watts), C(throttle_reasons), C(pcie_generation) and C(pcie_width).
      type: list
      elements: dict
      returned: always
"""

import os
import zipfile
from dataclasses import asdict

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.burn_in import (
    Settings,
    burn,
    facts,
    problems_with,
    refusals,
    unpack,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.burn_in_checks import (
    expectations_of,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.expectations import (
    ExpectationsError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import python_of, read
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.verdict import problems_of


def main():
    module = HostModule(
        argument_spec={
            "venv": {"type": "path"},
            "wheels": {"type": "list", "elements": "path", "default": []},
            "seconds": {"type": "float", "default": 60.0},
            "matrix_size": {"type": "int", "default": 8192},
            "memory_fraction": {"type": "float", "default": 0.8},
            "timeout": {"type": "float", "default": 120.0},
            "allow_busy": {"type": "bool", "default": False},
            "expectations": {"type": "dict", "default": {}},
            "fail_on_problems": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    settings, expectations = wanted(module)
    if module.check_mode:
        module.exit_json(
            changed=False, skipped=True, msg="In check mode no load is put on the GPUs."
        )
    finish(module, expectations, *measured(module, settings, expectations))


def wanted(module):
    """What the arguments say; the module fails with everything that is wrong with them."""
    params = module.params
    names = ("seconds", "matrix_size", "memory_fraction", "timeout")
    settings = Settings(**{name: params[name] for name in names})
    wrong = problems_with(settings)
    expectations = None
    try:
        expectations = expectations_of(params["expectations"])
    except ExpectationsError as error:
        wrong.append(str(error))
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    return settings, expectations


def measured(module, settings, expectations):
    """Checks and figures."""
    python, timeout = python_of(module.params["venv"]), settings.timeout
    try:
        paths = unpack(module.params["wheels"], os.path.join(module.tmpdir, "wheels"))
    except (OSError, zipfile.BadZipFile) as error:
        module.fail_json(msg=f"wheels cannot be used: {error}")
    before = read(module, python, paths, timeout)
    refused = refusals(before, module.params["allow_busy"])
    if refused:
        return refused, []
    burns = burn(python, paths, settings, before.snapshot.gpus)
    after = read(module, python, paths, timeout)
    return judge(before, after, burns, expectations), facts(burns)


def finish(module, expectations, checks, gpus):
    """Exit or fail with everything that was found."""
    problems = problems_of(checks)
    result = {
        "changed": False,
        "ok": not problems,
        "checks": [asdict(check) for check in checks],
        "problems": problems,
        "expectations": asdict(expectations),
        "gpus": gpus,
    }
    if problems and module.params["fail_on_problems"]:
        module.fail_json(msg="The GPUs did not pass the burn-in:\n" + "\n".join(problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
