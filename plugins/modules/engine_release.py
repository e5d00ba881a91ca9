#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_release
short_description: Sign a compiled engine and store it under its key
version_added: "0.1.0"
description:
  - Takes a directory that a build has left and stores it as an immutable artifact with manifest, Metalink and OpenSSF model signature.
  - An engine is found by its key, the SHA-256 of the C(key.json) in it, and not named by a release, so that a new kind of GPU adds an
    engine to what is published.
  - Where a good engine of the same key is in the store, nothing is done, since two builds of one key may differ in their bytes.
  - Refuses a build that was not compiled from the given graph, and one without the file that its runtime loads or its golden answers.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Refuses what the real run refuses, says whether it would store the engine, and changes nothing.
    support: full
  diff_mode:
    description: Shows which engine is added or replaced.
    support: full
options:
  directory:
    description: Directory that the build has left.
    type: path
    required: true
  graph:
    description: Digest of the graph that the engine was compiled from. The graph must be in the store.
    type: str
    required: true
extends_documentation_fragment:
  - onprem.deepseek.store
  - onprem.deepseek.store.signing
seealso:
  - module: onprem.deepseek.engine_replica
"""

EXAMPLES = r"""
- name: Store the engine that was built
  onprem.deepseek.engine_release:
    store: /srv/deepseek/store
    model: tiny-onprem
    directory: /var/lib/deepseek/build/engine
    graph: "{{ published.release.graphs.fp16 }}"
    venv: /opt/deepseek/serving
    public_key: /etc/deepseek/release.pub
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/release/softhsm2.conf
"""

RETURN = r"""
engine:
  description: The engine.
  type: dict
  returned: success
  contains:
    model:
      description: Name of the model.
      type: str
      returned: success
      sample: tiny-onprem
    key:
      description: Its key, by which other hosts find it.
      type: str
      returned: success
    graph:
      description: Digest of the graph that it was compiled from.
      type: str
      returned: success
    path:
      description: Its directory in the store.
      type: str
      returned: success
rebuild_reason:
  description: Why the engine was stored, empty when a good one of its key was there.
  type: str
  returned: success
"""

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import read_small
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    HAS_CRYPTOGRAPHY,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.store.arguments import (
    directory_signer,
    signing_arguments,
    store_arguments,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.engines import (
    Build,
    store_engine,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import ReplicaError
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    ArtifactWriter,
    PublishError,
)


def work(module):
    params = module.params
    build = Build(
        ArtifactWriter(params["store"], params["model"], read_small(params["public_key"])),
        params["directory"],
        params["graph"],
        params["verify"] == "full",
    )
    stored = store_engine(build, directory_signer(module), module.check_mode)
    line = f"engine {stored.key}"
    before = f"{line}: {stored.reason}\n" if stored.changed else f"{line}\n"
    return {
        "changed": stored.changed,
        "engine": {
            "model": params["model"],
            "key": stored.key,
            "graph": params["graph"],
            "path": stored.path,
        },
        "rebuild_reason": stored.reason,
        "diff": {"before": before, "after": f"{line}\n"},
    }


def main():
    module = HostModule(
        argument_spec={
            **store_arguments(),
            **signing_arguments(),
            "directory": {"type": "path", "required": True},
            "graph": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        result = work(module)
    except (OSError, ArtifactError, PublishError, ReplicaError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
