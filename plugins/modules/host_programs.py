#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_programs
short_description: Install the programs of this collection that run on hosts without Ansible
version_added: "0.1.0"
description:
  - Installs console scripts C(deepseek-<program>), and the Python package C(deepseek_host) with the modules of this collection that they
    import, and no others.
  - Programs that the host has already stay, in the version of the controller. What none of them needs any more is removed.
  - The package is replaced as a whole, so that no program is started from modules of two versions.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows each file that differs.
    support: full
options:
  programs:
    description: Programs that the host is to have, beside those that it has.
    type: list
    elements: str
    required: true
  modules:
    description: All programs that there are, each with its module below C(plugins/module_utils), as C(store.agent).
    type: dict
    required: true
  directory:
    description: Directory of the package. Anything else in it is removed.
    type: path
    default: /usr/local/lib/deepseek
  scripts:
    description: Directory of the console scripts. It must exist.
    type: path
    default: /usr/local/sbin
  archive:
    description: The programs, packed. The controller sets this.
    type: str
requirements:
  - root, on a host with C(/usr/bin/python3)
"""

EXAMPLES = r"""
- name: Install the program that looks after the model store
  onprem.deepseek.host_programs:
    programs: [store]
    modules:
      store: store.agent
      gateway-probe: gateway.probe
"""

RETURN = r"""
programs:
  description: All programs that the host has.
  type: list
  elements: str
  returned: success
  sample: [store]
updated:
  description: Those of them that are new or were changed, in a module or in their console script. Restart what runs them.
  type: list
  elements: str
  returned: success
  sample: [store]
removed:
  description: Paths of earlier versions that were removed.
  type: list
  elements: str
  returned: success
  sample: []
versions:
  description:
    - SHA-256 of each program that the host has, over its console script and all its modules. A unit that states it is another one when
      the code of its program is.
  type: dict
  returned: success
  sample: {store: 3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b}
"""

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_programs import (
    HostProgramsError,
    Place,
    install,
    unpack,
)


def main():
    module = HostModule(
        argument_spec={
            "programs": {"type": "list", "elements": "str", "required": True},
            "modules": {"type": "dict", "required": True},
            "directory": {"type": "path", "default": "/usr/local/lib/deepseek"},
            "scripts": {"type": "path", "default": "/usr/local/sbin"},
            # long, and in the journal of the host it would say nothing
            "archive": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not given["archive"]:
        module.fail_json(msg="The archive is packed by the action of this name: run it as a task.")
    try:
        outcome = install(
            Place(given["directory"], given["scripts"]),
            unpack(given["archive"]),
            given["programs"],
            not module.check_mode,
        )
    except (HostProgramsError, OSError) as error:
        module.fail_json(msg=f"{given['directory']}: {error}.")
    module.exit_json(
        changed=outcome.changed,
        programs=outcome.programs,
        updated=outcome.updated,
        removed=outcome.removed,
        versions=outcome.versions,
        diff=outcome.diff,
    )


if __name__ == "__main__":
    main()
