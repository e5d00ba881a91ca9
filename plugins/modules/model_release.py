#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_release
short_description: Publish a signed model version from a checkpoint
version_added: "0.1.0"
description:
  - Checks and hashes a checkpoint, exports its decoder graph, prepares that in the precisions asked for, writes all as immutable
    artifacts with manifest, Metalink and OpenSSF model signature, and writes the signed release that names them.
  - Makes only the graphs that the store does not have, from the same checkpoint or graph, with the same arguments, texts and tools.
  - A precision that fails its accuracy gate fails the module with the gate's report. Nothing of the release is published then.
  - The release file is written last. An interrupted publish has published nothing and is resumed by the next one.
  - A published version never changes. The same bytes again change nothing, other bytes or precisions are refused.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Asks everything that the real run asks, including what has to be exported and why, and changes nothing.
    support: full
  diff_mode:
    description: Shows the release file before and after.
    support: full
options:
  version:
    description: Version of the model.
    type: str
    required: true
  checkpoint:
    description:
      - Directory of the checkpoint in Hugging Face layout.
      - Its files are copied, or share their blocks with the store where the file system can. Hidden files are left out.
    type: path
    required: true
  source:
    description: Where the checkpoint comes from, for the manifest.
    type: str
    default: ""
  license:
    description: License of the checkpoint, for the manifest.
    type: str
    default: ""
  export:
    description:
      - Whether graphs are made of the checkpoint. V(false) publishes the checkpoint alone, of any architecture, for a server that
        loads it itself.
    type: bool
    default: true
  max_len:
    description: Longest sequence that the graph has room for. Without it the exporter decides.
    type: int
  slots:
    description: Sequences that the graph handles at once. Without it the exporter decides.
    type: int
extends_documentation_fragment:
  - onprem.deepseek.store
  - onprem.deepseek.store.signing
  - onprem.deepseek.store.precisions
  - onprem.deepseek.store.checkpoint
"""

EXAMPLES = r"""
- name: Publish a version of the model
  onprem.deepseek.model_release:
    store: /srv/deepseek/store
    model: tiny-onprem
    version: 1.0.0
    checkpoint: /srv/import/tiny-onprem
    venv: /opt/deepseek/serving
    public_key: /etc/deepseek/release.pub
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/release/softhsm2.conf

- name: Publish it for GPUs too
  onprem.deepseek.model_release:
    store: /srv/deepseek/store
    model: tiny-onprem
    version: 1.1.0
    checkpoint: /srv/import/tiny-onprem
    precisions:
      - name: fp16
        held_out: /srv/import/held-out.jsonl
      - name: int8
        held_out: /srv/import/held-out.jsonl
        calibration: /srv/import/calibration.jsonl
        min_top1_agreement: 0.95
    venv: /opt/deepseek/serving
    public_key: /etc/deepseek/release.pub
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/release/softhsm2.conf
"""

RETURN = r"""
release:
  description: The release. Empty in check mode when a graph would have to be made.
  type: dict
  returned: success
  contains:
    model:
      description: Name of the model.
      type: str
      returned: success
      sample: tiny-onprem
    version:
      description: Version of the model.
      type: str
      returned: success
      sample: 1.0.0
    path:
      description: The release file on this host.
      type: str
      returned: success
    sha256:
      description: SHA-256 of the release file; equal on every host that holds the release.
      type: str
      returned: success
    checkpoint:
      description: Digest of the checkpoint.
      type: str
      returned: success
    graphs:
      description: Digest of the graph of each precision.
      type: dict
      returned: success
actions:
  description: What was done, in order.
  type: list
  elements: str
  returned: success
rebuild_reason:
  description: Why graphs were made, empty when the store had them. That of a prepared graph begins with its precision.
  type: str
  returned: success
"""

import functools
import json

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import read_small
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    HAS_CRYPTOGRAPHY,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import (
    parse_precisions,
    precisions_option,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.service_check import check
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.store.arguments import (
    data_signer,
    directory_signer,
    run_program,
    signing_arguments,
    store_arguments,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import ReplicaError
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish, summary
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import (
    VERSIONS_PROGRAM,
    Plan,
    Tools,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import PublishError


def options(values):
    """Options of a command, those that have a value."""
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in values.items()]
    return [word for name, value in pairs if value is not None for word in (name, str(value))]


def tools_of(module):
    """The serving environment's programs and the signing key in the token."""
    params = module.params

    @functools.cache
    def versions(command):
        purpose = "Asking for the versions of the tools"
        return json.loads(run_program(module, "python", ["-c", VERSIONS_PROGRAM, command], purpose))

    def export(checkpoint, out):
        size = {"max_len": params["max_len"], "slots": params["slots"]}
        purpose = f"Exporting the graph of {checkpoint}"
        # Of unwritten tensors publish has judged; it need not be read for them once more.
        judged = ["--zero-tensors", "*"]
        run_program(module, "deepseek-export", [checkpoint, out, *options(size), *judged], purpose)

    def prepare(graph, out, precision):
        asked = {"precision": precision.name, **precision.texts, **precision.arguments}
        purpose = f"Preparing {precision.name}"
        run_program(module, "deepseek-prepare", [graph, out, *options(asked)], purpose)

    def readable(checkpoint):
        return check(module, params["venv"], checkpoint)

    return Tools(versions, export, prepare, directory_signer(module), data_signer(module), readable)


def work(module):
    params = module.params
    plan = Plan(
        store=params["store"],
        model=params["model"],
        version=params["version"],
        checkpoint=params["checkpoint"],
        public_key=read_small(params["public_key"]),
        source=params["source"],
        license=params["license"],
        precisions=parse_precisions(params["precisions"]),
        max_len=params["max_len"],
        slots=params["slots"],
        full=params["verify"] == "full",
        export=params["export"],
        allowed=params["allowed_files"],
        checksums=params["checksums"] or "",
        zero_tensors=params["zero_tensors"],
    )
    done = publish(plan, tools_of(module), module.check_mode)
    for warning in done.warnings:
        module.warn(warning)
    after = (
        done.release.to_bytes().decode("ascii")
        if done.release
        else f"# graphs to be made: {done.rebuild_reason}\n"
    )
    return {
        "changed": done.changed,
        "release": summary(plan, done),
        "actions": done.actions,
        "rebuild_reason": done.rebuild_reason,
        "diff": {"before": done.before, "after": after},
    }


def main():
    module = HostModule(
        argument_spec={
            **store_arguments(),
            **signing_arguments(),
            "version": {"type": "str", "required": True},
            "checkpoint": {"type": "path", "required": True},
            "source": {"type": "str", "default": ""},
            "license": {"type": "str", "default": ""},
            "precisions": precisions_option(),
            "export": {"type": "bool", "default": True},
            "allowed_files": {"type": "list", "elements": "str", "default": []},
            "checksums": {"type": "path"},
            "zero_tensors": {"type": "list", "elements": "str", "default": []},
            "max_len": {"type": "int"},
            "slots": {"type": "int"},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        result = work(module)
    except (OSError, ArtifactError, PublishError, ReplicaError, Pkcs11Error) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
