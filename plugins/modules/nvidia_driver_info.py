#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: Say what a host has of NVIDIA's driver, and what stands in the way of what it should have
version_added: "0.1.0"
description:
  - Looks at the GPUs on the PCI bus, at packages, kernels, kernel modules and Secure Boot, and plans the installation of a driver.
  - It changes nothing. Repositories are asked through package lists in a temporary directory, so that one can be tried before the host
    has it, and only when something is missing on the host.
  - All that is wrong is in RV(problems); the module itself fails only for wrong arguments.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
options:
  kernel_module:
    description:
      - Kernel module that the host should have. V(auto) is the one that it has. On a host without a driver it is, where all GPUs can have
        both, V(proprietary) on Debian and V(open) elsewhere.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  version:
    description:
      - Version of the driver, NVIDIA's (V(535.261.03)) or a package's (V(535.261.03-1)).
      - Empty means the one that is installed, or else the newest that the repositories offer without backports.
    type: str
    default: ""
  kernel_release:
    description: Kernel that the module is built for, as C(uname -r) names it. The default is the running one.
    type: str
  fabric_manager:
    description:
      - Whether the host needs NVIDIA's Fabric Manager. V(auto) looks for NVSwitches on the PCI bus. Those of HGX B200 and later are not
        found there, so such hosts take V(present).
    type: str
    choices: [auto, present, absent]
    default: auto
  fabric_manager_package:
    description: Package of the Fabric Manager. C({branch}) in it is the driver's branch. The default is that of the distribution.
    type: str
    default: ""
  packages:
    description: Packages with the driver's version, in place of the distribution's set. The one with the kernel module is not among them.
    type: list
    elements: str
    default: []
  mirror:
    description: Debian mirror that has C(contrib), C(non-free) and C(non-free-firmware). By default the ones that the host has C(main) from.
    type: str
    default: ""
  security_mirror:
    description: The same for security updates.
    type: str
    default: ""
  repository:
    description:
      - URL of a repository that is used as well, such as NVIDIA's or a mirror of it; a flat APT repository.
    type: str
    default: ""
  repository_keyring:
    description:
      - Keyring on the host that O(repository) is signed with.
    type: path
  free_mib:
    description: Free space in MiB that an installation needs, by directory.
    type: dict
    default: {}
  replace_loaded:
    description: Whether another version may take the place of a kernel module that is loaded.
    type: bool
    default: false
  restart:
    description: Whether the host may be restarted, or is anyway before the driver is used. Where nouveau has a GPU, there is no other way.
    type: bool
    default: false
  sysfs:
    description: Where sysfs is mounted. Another directory is for tests.
    type: path
    default: /sys
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
seealso:
  - module: onprem.deepseek.gpu_info
"""

EXAMPLES = r"""
- name: Plan the installation of one version
  onprem.deepseek.nvidia_driver_info:
    version: 535.261.03
  become: true
  register: driver

- name: Show what stands in the way
  ansible.builtin.debug:
    var: driver.problems

- name: Show what would be installed
  ansible.builtin.debug:
    msg: "{{ driver.transaction.changes | map(attribute='name') }}"
"""

RETURN = r"""
gpus:
  description: NVIDIA's GPUs on the PCI bus, each with C(address), C(device) (its PCI identifier), C(architecture) and C(driver).
  type: list
  elements: dict
  returned: success
nvswitches:
  description: NVSwitches on the PCI bus, as RV(gpus).
  type: list
  elements: dict
  returned: success
kernel_module:
  description: Kernel module that these GPUs should have.
  type: str
  returned: success
  sample: open
version:
  description: NVIDIA's version of the driver that the host should have; empty if there is none to be had.
  type: str
  returned: success
  sample: 535.261.03
versions:
  description: Versions that can be had, newest first. Where nothing is missing, repositories are not asked, and it is the installed one.
  type: list
  elements: str
  returned: success
installed:
  description: The driver's packages on the host, each with C(name), C(version), C(source) and whether it is C(held).
  type: list
  elements: dict
  returned: success
wanted:
  description: What is to be installed, as apt-get takes it.
  type: list
  elements: str
  returned: success
  sample: [nvidia-smi=535.261.03-1]
unwanted:
  description: Packages of the other kernel module, which have to go.
  type: list
  elements: str
  returned: success
sources:
  description: Sources that the host needs beside its own, in deb822 form; empty if it needs none.
  type: str
  returned: success
preferences:
  description: APT preferences that keep the driver at its version; empty if there is none to be had.
  type: str
  returned: success
needed:
  description: Whether something has to be installed.
  type: bool
  returned: success
transaction:
  description: What the installation would change, as C(changes) with C(name), C(old) and C(new), or the C(error) that prevents it.
  type: dict
  returned: success
build:
  description:
    - The kernel module that DKMS has installed for RV(kernel_release), with C(name), C(version), C(kernel), C(state), its C(file), and
      C(file_version) and C(signer) as modinfo says them. Null if there is none of the version that the packages have.
  type: dict
  returned: success
builds:
  description: Everything of NVIDIA's that DKMS knows, as RV(build).
  type: list
  elements: dict
  returned: success
kernel_release:
  description: Kernel that the module is built for.
  type: str
  returned: success
kernels:
  description: C(packages) of kernels with versions, C(images) in /boot, and which is the C(default).
  type: dict
  returned: success
secure_boot:
  description: Whether Secure Boot is C(enabled), which C(certificate) DKMS signs with, and whether it is C(enrolled).
  type: dict
  returned: success
loaded:
  description: Version of NVIDIA's kernel module that is loaded, empty if none is.
  type: str
  returned: success
nouveau:
  description: Whether the nouveau driver is loaded.
  type: bool
  returned: success
problems:
  description: Everything that stands in the way, each with C(where) it is, C(what) is wrong, and the C(remedy).
  type: list
  elements: dict
  returned: success
"""

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import module_runner
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.gpu.host import ROOT
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.apt import Source
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.plan import examine
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.systems import Wish


def wish_of(params):
    repository = None
    if params["repository"]:
        repository = Source(params["repository"], ("/",), (), params["repository_keyring"] or "")
    return Wish(
        kernel_release=params["kernel_release"] or os.uname().release,
        kernel_module=params["kernel_module"],
        version=params["version"],
        fabric_manager=params["fabric_manager"],
        fabric_manager_package=params["fabric_manager_package"],
        packages=tuple(params["packages"]),
        mirrors=(params["mirror"], params["security_mirror"]),
        repository=repository,
        free={name: int(value) for name, value in params["free_mib"].items()},
        replace=params["replace_loaded"],
        restart=params["restart"],
    )


def main():
    module = HostModule(
        argument_spec={
            "kernel_module": {
                "type": "str",
                "choices": ["auto", "open", "proprietary"],
                "default": "auto",
            },
            "version": {"type": "str", "default": ""},
            "kernel_release": {"type": "str"},
            "fabric_manager": {
                "type": "str",
                "choices": ["auto", "present", "absent"],
                "default": "auto",
            },
            "fabric_manager_package": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
            "mirror": {"type": "str", "default": ""},
            "security_mirror": {"type": "str", "default": ""},
            "repository": {"type": "str", "default": ""},
            "repository_keyring": {"type": "path"},
            "free_mib": {"type": "dict", "default": {}},
            "replace_loaded": {"type": "bool", "default": False},
            "restart": {"type": "bool", "default": False},
            "sysfs": {"type": "path", "default": "/sys"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C", "LANGUAGE": "C"}
    try:
        wish = wish_of(module.params)
    except ValueError as error:
        module.fail_json(msg=f"free_mib must have numbers: {error}")
    # Not below the module's own directory: APT fetches lists as a user that cannot look into root's home.
    directory = Path(tempfile.mkdtemp(prefix="nvidia_driver_info-"))
    try:
        report = examine(wish, module_runner(module), ROOT, Path(module.params["sysfs"]), directory)
    finally:
        shutil.rmtree(directory)
    result = {**asdict(report), "problems": [problem.as_dict() for problem in report.problems]}
    module.exit_json(changed=False, kernel_release=wish.kernel_release, **result)


if __name__ == "__main__":
    main()
