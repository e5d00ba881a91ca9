#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: prerequisites
short_description: Require what other roles put on a host
version_added: "0.1.0"
description:
  - Fails with all files that are missing, and the role that puts each there.
  - In check mode it does not fail, since they would have been there by then; see RV(ready).
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Looks, and does not fail.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  files:
    description: Paths of files on the host, in a list for each role of this collection that puts them there.
    type: dict
    required: true
  required:
    description: Whether the module fails if something is missing.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Require what other roles install
  onprem.deepseek.prerequisites:
    files:
      serving_environment: [/opt/deepseek/venv/bin/deepseek-serve]
      tls: [/etc/deepseek/tls/host.pem, /etc/deepseek/tls/host.key]
  register: prerequisites
"""

RETURN = r"""
ready:
  description: Whether all files are there.
  type: bool
  returned: always
missing:
  description: Those that are not.
  type: list
  elements: str
  returned: always
findings:
  description: The same by the role that puts them there, as M(onprem.deepseek.require) takes them.
  type: list
  elements: dict
  returned: always
  contains:
    what:
      description: Which files are missing.
      type: str
    remedy:
      description: What to do.
      type: str
"""

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule


def main():
    module = HostModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "required": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    missing = {
        role: [path for path in paths if not os.path.exists(path)]
        for role, paths in module.params["files"].items()
    }
    findings = [
        {
            "what": f"{', '.join(paths)} {'is' if len(paths) == 1 else 'are'} missing",
            "remedy": f"Apply the role onprem.deepseek.{role} to this host first",
        }
        for role, paths in missing.items()
        if paths
    ]
    result = {
        "changed": False,
        "ready": not findings,
        "missing": [path for paths in missing.values() for path in paths],
        "findings": findings,
    }
    if findings and module.params["required"] and not module.check_mode:
        said = " ".join(f"{one['what']}. {one['remedy']}." for one in findings)
        module.fail_json(msg=said, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
