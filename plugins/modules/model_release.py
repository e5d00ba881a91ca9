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
  - Checks and hashes a checkpoint, exports its decoder graph, writes both as immutable artefacts with manifest, Metalink and
    OpenSSF model signature, and writes the signed release that names them.
  - Exports only when the store has no graph of this checkpoint that was made with the same arguments and tools.
  - The release file is written last. An interrupted publish has published nothing and is resumed by the next one.
  - A published version never changes. The same bytes again change nothing, other bytes are refused.
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
  store:
    description: Folder of the store.
    type: path
    required: true
  model:
    description: Name of the model.
    type: str
    required: true
  version:
    description: Version of the model.
    type: str
    required: true
  checkpoint:
    description:
      - Folder of the checkpoint in Hugging Face layout.
      - Its files are copied, or share their blocks with the store where the file system can. Hidden files are left out.
    type: path
    required: true
  source:
    description: Where the checkpoint comes from, for the manifest.
    type: str
    default: ""
  licence:
    description: Licence of the checkpoint, for the manifest.
    type: str
    default: ""
  precision:
    description: Precision of the exported graph.
    type: str
    choices: [fp32]
    default: fp32
  max_len:
    description: Longest sequence that the graph has room for. Without it the exporter decides.
    type: int
  slots:
    description: Sequences that the graph handles at once. Without it the exporter decides.
    type: int
  venv:
    description: Virtual environment with the serving package, for C(deepseek-export) and C(deepseek-sign).
    type: path
    required: true
  public_key:
    description: PEM file with the site's release public key (EC P-256). New signatures must verify against it.
    type: path
    required: true
  module_path:
    description: PKCS#11 library of the signing token.
    type: path
    required: true
  token:
    description: Label of the signing token.
    type: str
    required: true
  key:
    description: Label of the signing key.
    type: str
    default: release-signing
  pin_file:
    description: File that holds the user PIN, without a newline at the end.
    type: path
    required: true
  verify:
    description: How to judge artefacts that are in the store, by every byte (V(full)) or by sizes and metadata (V(quick)).
    type: str
    choices: [full, quick]
    default: full
requirements:
  - PyKCS11 (Debian package python3-pykcs11)
  - cryptography >= 38 (Debian package python3-cryptography)
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
"""

RETURN = r"""
release:
  description: The release. Empty in check mode when a graph would have to be exported.
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
  description: Why the graph was exported, empty when the store had it.
  type: str
  returned: success
"""

import json

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.onprem.deepseek.plugins.module_utils.artefact import (
    HAS_CRYPTOGRAPHY,
    ArtefactError,
    read_small,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import (
    Pkcs11Error,
    read_pin,
    sign_bytes,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.publish import (
    VERSIONS_PROGRAM,
    Plan,
    PublishError,
    Tools,
    publish,
    summary,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.replica import ReplicaError


def tools_of(module):
    """The serving environment's programs and the signing key in the token."""
    params = module.params
    programs = f"{params['venv']}/bin"

    def run(command, purpose):
        rc, stdout, stderr = module.run_command(command)
        if rc != 0:
            raise PublishError(f"{purpose} failed with status {rc}: {(stderr or stdout).strip()}")
        return stdout

    def versions():
        return json.loads(
            run(
                [f"{programs}/python", "-c", VERSIONS_PROGRAM],
                "Asking for the versions of the tools",
            )
        )

    def export(checkpoint, out):
        command = [f"{programs}/deepseek-export", checkpoint, out]
        for option, value in (("--max-len", params["max_len"]), ("--slots", params["slots"])):
            if value is not None:
                command += [option, str(value)]
        run(command, f"Exporting the graph of {checkpoint}")

    def sign_folder(folder):
        command = [
            f"{programs}/deepseek-sign",
            folder,
            "--token",
            params["token"],
            "--key",
            params["key"],
        ]
        command += ["--module", params["module_path"], "--pin-file", params["pin_file"]]
        run(command, f"Signing {folder}")

    def sign_data(data):
        return sign_bytes(
            params["module_path"],
            params["token"],
            params["key"],
            read_pin(params["pin_file"]),
            data,
        )

    return Tools(versions, export, sign_folder, sign_data)


def work(module):
    params = module.params
    plan = Plan(
        store=params["store"],
        model=params["model"],
        version=params["version"],
        checkpoint=params["checkpoint"],
        public_key=read_small(params["public_key"]),
        source=params["source"],
        licence=params["licence"],
        precision=params["precision"],
        max_len=params["max_len"],
        slots=params["slots"],
        full=params["verify"] == "full",
    )
    done = publish(plan, tools_of(module), module.check_mode)
    for warning in done.warnings:
        module.warn(warning)
    after = (
        done.release.to_bytes().decode("ascii")
        if done.release
        else f"# to be exported: {done.rebuild_reason}\n"
    )
    return {
        "changed": done.changed,
        "release": summary(plan, done),
        "actions": done.actions,
        "rebuild_reason": done.rebuild_reason,
        "diff": {"before": done.before, "after": after},
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "required": True},
            "model": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "checkpoint": {"type": "path", "required": True},
            "source": {"type": "str", "default": ""},
            "licence": {"type": "str", "default": ""},
            "precision": {"type": "str", "choices": ["fp32"], "default": "fp32"},
            "max_len": {"type": "int"},
            "slots": {"type": "int"},
            "venv": {"type": "path", "required": True},
            "public_key": {"type": "path", "required": True},
            "module_path": {"type": "path", "required": True},
            "token": {"type": "str", "required": True, "no_log": False},
            "key": {"type": "str", "default": "release-signing", "no_log": False},
            "pin_file": {"type": "path", "required": True},
            "verify": {"type": "str", "choices": ["full", "quick"], "default": "full"},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        result = work(module)
    except (OSError, ArtefactError, PublishError, ReplicaError, Pkcs11Error) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
