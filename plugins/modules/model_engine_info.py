#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_engine_info
short_description: Say which GPUs and compilers a host has, and what an engine is
version_added: "0.1.0"
description:
  - Asks NVML for the GPUs of the host, and the serving environment for the compilers that are installed.
  - Reads the key of the engine at O(dest) and checks its files against what was built.
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
  venv:
    description: Virtual environment with the serving package and the compiler.
    type: path
    required: true
  dest:
    description: Directory of an engine, as M(onprem.deepseek.model_engine) makes it.
    type: path
seealso:
  - module: onprem.deepseek.model_engine
"""

EXAMPLES = r"""
- name: Ask for what GPU an engine was built
  onprem.deepseek.model_engine_info:
    venv: /opt/deepseek/serving
    dest: /var/lib/deepseek/engines/deepseek-r1-8b-fp8
  register: engine
"""

RETURN = r"""
gpus:
  description: The host's GPUs.
  type: dict
  returned: success
  contains:
    found:
      description: Product, UUID and compute capability of each GPU.
      type: list
      elements: dict
      returned: success
    driver:
      description: Version of the driver, if there is one.
      type: str
      returned: success
    problem:
      description: Why no GPU could be asked, empty when NVML answered.
      type: str
      returned: success
compilers:
  description: Flavour, version and CUDA major version of each compiler that is installed.
  type: list
  elements: dict
  returned: success
engine:
  description: What is at O(dest).
  type: dict
  returned: when O(dest) is given
  contains:
    found:
      description: Whether there is an engine.
      type: bool
      returned: success
    key:
      description: SHA-256 of the fields of its key.
      type: str
      returned: when there is an engine
    fields:
      description: The fields of its key.
      type: dict
      returned: when there is an engine
    build:
      description: Files with size and SHA-256, seconds of the build, driver at that time.
      type: dict
      returned: when there is an engine
    problems:
      description: What is wrong with its files.
      type: list
      elements: str
      returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.engine_cli import (
    EngineError,
    ask,
    info_command,
)


def main():
    module = HostModule(
        argument_spec={
            "venv": {"type": "path", "required": True},
            "dest": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        answer = ask(info_command(module.params), module.run_command)
    except (OSError, EngineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
