#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: checkpoint_info
short_description: Say whether a checkpoint can be published
version_added: "0.1.0"
description:
  - Looks at a directory in Hugging Face layout and lists every reason why it cannot be published, each with its remedy.
  - Checks the architecture, and that the model has nothing that cannot be exported (quantised weights, a sliding window,
    another rotary scaling or activation).
  - Checks that every shard is there and as long as its header says, that the tokenizer is there, and that nothing in the directory
    is a symbolic link, a pickle or program code, by name or by content.
  - Checks that no file is a git-lfs pointer, is left of a download that has not ended, or is cut, empty, not UTF-8 or not JSON where it has to
    be, and that all programs load the same weights (no file of weights beside an index that does not name it, no tensor twice, and one
    table where C(tie_word_embeddings) says so).
  - With O(venv), has the serving package load tokenizer, chat template and settings, and render one conversation, in a process with
    bounds of time and memory.
  - With O(precisions), checks as well that each has the texts that it needs, and that they are on this host.
  - With O(checksums), checks that the list can be read and names every file of weights. It hashes nothing.
  - Of checkpoints over 4 GiB it reads names, sizes and headers only, so that it answers in moments. In smaller ones it looks at every byte for
    parts that never came; M(onprem.deepseek.model_release) does that in all.
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
  path:
    description: Directory of the checkpoint, on the host where the module runs.
    type: path
    required: true
  export:
    description: Whether graphs are to be made of it. With V(false) any architecture will do.
    type: bool
    default: true
  venv:
    description: Virtual environment with the serving package. Without it, or where its C(deepseek-check) is not, that part is left out.
    type: path
  fail_on_problems:
    description: Fail when the checkpoint cannot be published, with all reasons in the message.
    type: bool
    default: false
extends_documentation_fragment:
  - onprem.deepseek.store.precisions
  - onprem.deepseek.store.checkpoint
"""

EXAMPLES = r"""
- name: Refuse a checkpoint that cannot be served before anything is changed
  onprem.deepseek.checkpoint_info:
    path: /srv/import/DeepSeek-R1-Distill-Qwen-1.5B
    fail_on_problems: true
"""

RETURN = r"""
checkpoint:
  description: What the directory holds.
  type: dict
  returned: success
  contains:
    path:
      description: The directory.
      type: str
      returned: success
    architecture:
      description: Architecture that C(config.json) names, empty when it names none.
      type: str
      returned: success
      sample: Qwen2ForCausalLM
    model_type:
      description: Model type that C(config.json) names.
      type: str
      returned: success
      sample: qwen2
    supported:
      description: Whether the architecture can be exported and served.
      type: bool
      returned: success
    supported_architectures:
      description: All architectures that can be.
      type: list
      elements: str
      returned: success
    files:
      description: Files that would be published.
      type: list
      elements: str
      returned: success
    shards:
      description: Files that hold the weights.
      type: list
      elements: str
      returned: success
    size:
      description: Bytes of all files together.
      type: int
      returned: success
    read_by_service:
      description: Whether C(deepseek-check) has loaded tokenizer and template. V(false) where it is not installed, or other problems come first.
      type: bool
      returned: success
    warnings:
      description: What does not stand in the way and should be known.
      type: list
      elements: str
      returned: success
    problems:
      description: Every reason why the checkpoint cannot be published.
      type: list
      elements: dict
      returned: success
      sample:
        - file: model-00002-of-00002.safetensors
          problem: it is truncated, 4096 bytes of tensor data are missing
          remedy: copy this file again from where the checkpoint was published
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.files import (
    CheckpointError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.inspect import (
    failure_message,
    inspect,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import (
    parse_precisions,
    precision_problems,
    precisions_option,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.service_check import (
    can_check,
    check,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule


def read_by_service(module, report):
    """Have the serving package read it, once nothing else is wrong with it. Gives warnings, or None where that could not be done."""
    venv = module.params["venv"]
    if report.problems or not can_check(venv):
        return None
    try:
        return check(module, venv, report.path)
    except CheckpointError as error:
        report.refuse(report.path, error)
        return []


def main():
    module = HostModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "precisions": precisions_option(),
            "export": {"type": "bool", "default": True},
            "allowed_files": {"type": "list", "elements": "str", "default": []},
            "checksums": {"type": "path"},
            "zero_tensors": {"type": "list", "elements": "str", "default": []},
            "venv": {"type": "path"},
            "fail_on_problems": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        report = inspect(
            module.params["path"],
            module.params["export"],
            module.params["allowed_files"],
            module.params["checksums"] or "",
            module.params["zero_tensors"],
        )
    except OSError as error:
        module.fail_json(msg=f"The checkpoint {module.params['path']} cannot be read: {error}")
    precisions = parse_precisions(module.params["precisions"])
    for problem in precision_problems(precisions, module.params["export"]):
        report.add(*problem)
    warnings = read_by_service(module, report)
    for warning in warnings or []:
        module.warn(warning)
    found = {
        **report.as_dict(),
        "read_by_service": warnings is not None,
        "warnings": warnings or [],
    }
    if report.problems and module.params["fail_on_problems"]:
        module.fail_json(msg=failure_message(report), checkpoint=found)
    module.exit_json(changed=False, checkpoint=found)


if __name__ == "__main__":
    main()
