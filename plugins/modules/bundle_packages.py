#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_packages
short_description: Collect Debian packages with all that they need
version_added: "0.1.0"
description:
  - Asks apt, in a directory of its own and against an empty list of installed packages, for packages and all that they depend on,
    downloads them and lists them in one flat repository for each suite.
  - What was downloaded before is kept; apt compares its sums. The same packages give the same repositories, byte for byte.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Changes nothing and asks nothing in check mode, since what there is to collect is known only from the sources.
    support: none
  diff_mode:
    description: There is no text whose difference could be shown.
    support: none
options:
  directory:
    description: Directory for the repositories, one below it for each suite. What is in it is replaced.
    type: path
    required: true
  work_dir:
    description: Directory for apt's lists and downloads, which are kept for the next run.
    type: path
    required: true
  sources:
    description: Sources of apt, as lines of C(sources.list). Each must name the keyring that it is C(signed-by).
    type: list
    elements: str
    required: true
  suites:
    description: What is wanted, suite after suite. What one before has is not collected again.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the suite, as C(bookworm-backports).
        type: str
        required: true
      packages:
        description: Packages that are wanted of it.
        type: list
        elements: str
        required: true
      automatic:
        description: Whether hosts take packages of this suite without being told to. V(false) as for backports.
        type: bool
        default: true
  architecture:
    description: Machine type of the hosts, as C(uname -m) prints it.
    type: str
    choices: [x86_64, aarch64]
    default: x86_64
"""

EXAMPLES = r"""
- name: Collect what gateways need
  onprem.deepseek.bundle_packages:
    directory: /srv/bundle/apt-bookworm
    work_dir: /srv/bundle/work/bookworm
    sources:
      - deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://mirror.example.org/debian bookworm main
    suites:
      - name: bookworm
        packages: [haproxy, openssl]
"""

RETURN = r"""
packages:
  description: Names of all packages that were collected.
  type: list
  elements: str
  returned: success
epoch:
  description: Seconds since 1970 of the newest of the sources' signed lists.
  type: int
  returned: success
size:
  description: Bytes of all packages.
  type: int
  returned: success
"""

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.debian import (
    DEBIAN_ARCHITECTURES,
    AptDirectory,
    Suite,
    collect,
    epoch_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import module_runner
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule


def work(module):
    given = module.params
    architecture = DEBIAN_ARCHITECTURES[given["architecture"]]
    run = module_runner(module)
    apt = AptDirectory(run, given["work_dir"], "\n".join(given["sources"]) + "\n", architecture)
    suites = [
        Suite(one["name"], tuple(one["packages"]), one["automatic"]) for one in given["suites"]
    ]
    before = listing(given["directory"])
    packages = collect(run, apt, suites, given["directory"], architecture)
    after = listing(given["directory"])
    return {
        "changed": before != after,
        "packages": packages,
        "epoch": epoch_of(apt.inreleases()),
        "size": sum(size for name, size in after if name.endswith(".deb")),
    }


def listing(directory):
    """Name and size of each file; a package has another name when its version is another."""
    return sorted(
        (os.path.join(root, name), os.lstat(os.path.join(root, name)).st_size)
        for root, _directories, names in os.walk(directory)
        for name in names
    )


def main():
    suite = {
        "name": {"type": "str", "required": True},
        "packages": {"type": "list", "elements": "str", "required": True},
        "automatic": {"type": "bool", "default": True},
    }
    module = HostModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "work_dir": {"type": "path", "required": True},
            "sources": {"type": "list", "elements": "str", "required": True},
            "suites": {"type": "list", "elements": "dict", "required": True, "options": suite},
            "architecture": {
                "type": "str",
                "choices": list(DEBIAN_ARCHITECTURES),
                "default": "x86_64",
            },
        },
    )
    try:
        result = work(module)
    except (OSError, ArtifactError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
