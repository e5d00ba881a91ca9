#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_engine
short_description: Compile a prepared graph for one kind of GPU
version_added: "0.1.0"
description:
  - Builds an engine with TensorRT, TensorRT for RTX or ONNX Runtime, when the one at O(dest) is not the one asked for.
  - What is asked for is the engine's key. It covers the bytes of graph and weights, the calibration text, tool and arguments of the
    preparation, the builder's configuration, the compiler's flavour and full version, CUDA, operating system and machine type,
    the compute capability and, for TensorRT, the product name of the GPU.
  - Finds by the key, without loading TensorRT, that nothing has to be done. Otherwise says which fields of the key differ.
  - Writes engine, key, inspector output and build log as a whole. A build that is killed leaves nothing, and the engine of before stays.
  - Two builds of the same O(dest) wait for each other.
  - A long build says how far it is while it runs.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Decides as usual, names the fields of the key that differ, and changes nothing.
    support: full
  diff_mode:
    description: Shows the fields of the key before and after.
    support: full
options:
  onnx:
    description:
      - The graph, C(decoder.onnx) as C(deepseek-prepare) writes it or C(encoder.onnx) as C(deepseek-export) writes it.
      - The record C(export.json) and the weights must lie beside it.
    type: path
    required: true
  dest:
    description: Directory of the engine. It must be an engine, empty, or not there.
    type: path
    required: true
  venv:
    description: Virtual environment with the serving package and the compiler.
    type: path
    required: true
  flavour:
    description:
      - What compiles.
      - V(auto) takes TensorRT, or TensorRT for RTX where only that is installed and supports this host's GPU.
      - V(tensorrt_rtx) compiles ahead of time for any compute capability that it supports; no GPU is needed for that.
      - V(onnxruntime) writes the graph as ONNX Runtime's optimizer leaves it, for hosts without a GPU.
    type: str
    choices: [auto, tensorrt, tensorrt_rtx, onnxruntime]
    default: auto
  compute_capability:
    description: Compute capability to compile for, such as V(8.0). Without it, that of this host's GPU, through NVML.
    type: str
  hardware_compatible:
    description: Compile for every GPU from the Ampere generation on. TensorRT only, and slower.
    type: bool
    default: false
  slots:
    description: Sequences that are decoded together. Without it, what the graph was exported for.
    type: int
  prefill_chunk:
    description: Tokens of a prompt that are read at once, at most.
    type: int
    default: 128
  profiles:
    description:
      - Optimization profiles in place of those that O(slots) and O(prefill_chunk) give.
      - Each maps the name of an input to its shapes V(min), V(opt) and V(max).
    type: list
    elements: dict
  workspace_mib:
    description: Limit of the builder's workspace in MiB. Without it, TensorRT's own.
    type: int
  optimization_level:
    description: How long TensorRT looks for faster kernels, from 0 to 5. Without it, its own default.
    type: int
  timing_cache:
    description: File with measurements of earlier builds, read and written. TensorRT only; it has no part in the key.
    type: path
  weight_streaming:
    description: Let the engine run on a GPU that has no room for all of its weights.
    type: bool
    default: false
  strip:
    description: Leave the weights out of the engine.
    type: bool
    default: false
  refit:
    description: Let the engine's weights be replaced.
    type: bool
    default: false
  flags:
    description: Further members of TensorRT's BuilderFlag, by name. One that the installed version lacks is refused.
    type: list
    elements: str
    default: []
  regenerate:
    description:
      - What to do with an engine at O(dest) that is not the one asked for.
      - V(if_changed) builds it again, V(fail) fails with the reason, V(never) keeps it and returns the reason.
      - V(always) builds in any case.
    type: str
    choices: [never, fail, if_changed, always]
    default: if_changed
  force_hash:
    description: Hash every file, also those that are the same by size, time of change and inode as when they were hashed last.
    type: bool
    default: false
  progress_seconds:
    description: Seconds between two lines that say how far a build is.
    type: int
    default: 15
  timeout_seconds:
    description: Longest time that a build may take.
    type: int
    default: 14400
seealso:
  - module: onprem.deepseek.model_engine_info
"""

EXAMPLES = r"""
- name: Compile the model for this host's GPU
  onprem.deepseek.model_engine:
    onnx: /srv/deepseek/store/graph/deepseek-r1-8b/{{ digest }}/decoder.onnx
    dest: /var/lib/deepseek/engines/deepseek-r1-8b-fp8
    venv: /opt/deepseek/serving

- name: Compile it ahead of time for an A100, on a host without a GPU
  onprem.deepseek.model_engine:
    onnx: /srv/deepseek/store/graph/deepseek-r1-8b/{{ digest }}/decoder.onnx
    dest: /var/lib/deepseek/engines/deepseek-r1-8b-int8-sm80
    venv: /opt/deepseek/serving
    flavour: tensorrt_rtx
    compute_capability: "8.0"
"""

RETURN = r"""
rebuild_reason:
  description:
    - Why the engine was built, with the fields of the key that differ. Empty when it was the one asked for.
    - With O(regenerate=never), why it is not.
  type: str
  returned: success
  sample: 'tensorrt.version was "1.7.0.21", is "1.7.1.116"'
key:
  description: SHA-256 of the fields of the key; names the engine in the store.
  type: str
  returned: success
engine:
  description: The fields of the key.
  type: dict
  returned: success
build:
  description: Files of the engine with size and SHA-256, seconds of the build, driver at that time. Empty in check mode before the first build.
  type: dict
  returned: success
driver:
  description: Version of this host's GPU driver, if it has one.
  type: str
  returned: success
driver_changed:
  description: Whether the driver is another one than when the engine was built. The engine stays; it should be smoke-tested again.
  type: bool
  returned: success
"""

import json
import os

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.engines import FLAVOURS
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.engine_cli import (
    EngineError,
    ask,
    build_command,
    result_of,
)


def write_profiles(module):
    """The profiles as a file for the builder, or None."""
    if module.params["profiles"] is None:
        return None
    path = os.path.join(module.tmpdir, "profiles.json")
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(module.params["profiles"], stream)
    return path


def main():
    module = HostModule(
        argument_spec={
            "onnx": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "venv": {"type": "path", "required": True},
            "flavour": {
                "type": "str",
                "choices": ["auto", *FLAVOURS],
                "default": "auto",
            },
            "compute_capability": {"type": "str"},
            "hardware_compatible": {"type": "bool", "default": False},
            "slots": {"type": "int"},
            "prefill_chunk": {"type": "int", "default": 128},
            "profiles": {"type": "list", "elements": "dict"},
            "workspace_mib": {"type": "int"},
            "optimization_level": {"type": "int"},
            "timing_cache": {"type": "path"},
            "weight_streaming": {"type": "bool", "default": False},
            "strip": {"type": "bool", "default": False},
            "refit": {"type": "bool", "default": False},
            "flags": {"type": "list", "elements": "str", "default": []},
            "regenerate": {
                "type": "str",
                "choices": ["never", "fail", "if_changed", "always"],
                "default": "if_changed",
            },
            "force_hash": {"type": "bool", "default": False},
            "progress_seconds": {"type": "int", "default": 15},
            "timeout_seconds": {"type": "int", "default": 14400},
        },
        supports_check_mode=True,
    )
    try:
        command = build_command(module.params, module.check_mode, write_profiles(module))
        result = result_of(ask(command, module.run_command))
    except (OSError, EngineError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
