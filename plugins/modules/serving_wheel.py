#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_wheel
short_description: Build the wheel of the serving package
version_added: "0.1.0"
description:
  - Builds the wheel from the source in this collection, unless the directory has the wheel of that source already. It has the same bytes
    each time.
  - Runs on a machine that reaches a package index, which the build backend comes from, at the version and hashes of a lock.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says whether it would build, and builds nothing.
    support: full
  diff_mode:
    description: There is no text whose difference could be shown.
    support: none
options:
  source_dir:
    description: Directory with the source, C(pyproject.toml) and C(src).
    type: path
    required: true
  directory:
    description: Directory for the wheel. Other wheels in it are removed.
    type: path
    required: true
  lock_file:
    description: Lock of the build backend, with hashes.
    type: path
    required: true
  python:
    description: Python interpreter with pip.
    type: path
    required: true
  index_url:
    description: Package index of the build backend. Empty for the one that pip is configured with.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Build the wheel on the controller
  onprem.deepseek.serving_wheel:
    source_dir: serving
    directory: wheels/package
    lock_file: serving/requirements-build.txt
    python: "{{ ansible_playbook_python }}"
  delegate_to: localhost
"""

RETURN = r"""
name:
  description: Name of the wheel's file; in check mode, of the one that is there.
  type: str
  returned: success
  sample: deepseek_serving-0.1.0-py3-none-any.whl
sha256:
  description: Its SHA-256.
  type: str
  returned: success
"""

from pathlib import Path

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.own_wheel import (
    WheelError,
    build,
    own_wheel,
)


def main():
    module = HostModule(
        argument_spec={
            "source_dir": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
            "lock_file": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "index_url": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    source, directory = Path(given["source_dir"]), Path(given["directory"])
    try:
        wheel = own_wheel(directory, source)
        changed = bool(wheel.problems)
        if changed and not module.check_mode:
            wheel = build(
                source, directory, Path(given["lock_file"]), given["python"], given["index_url"]
            )
    except (WheelError, OSError) as error:
        module.fail_json(msg=f"{given['source_dir']}: {error}")
    module.exit_json(changed=changed, name=wheel.name, sha256=wheel.sha256)


if __name__ == "__main__":
    main()
