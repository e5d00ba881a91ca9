#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_replica
short_description: Hold a verified copy of the engine of a key
version_added: "0.1.0"
description:
  - Verifies this host's copy of a compiled engine and, where it is missing or damaged, pulls it from the given sources.
  - The engine must carry the site's signature, be compiled from the given graph, and have the key that its directory is named by. Its
    manifest then pins every other byte, and aria2 checks every piece of 64 MiB while it fetches.
  - The engine appears under its key only when every byte was verified.
  - Contacts no source when this host's copy is whole. An engine that nobody has is no failure, since it can be built, unless it is
    O(required).
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Verifies this host's copy and asks the sources what they have as usual, says what would be pulled, and changes nothing.
    support: full
  diff_mode:
    description: Shows whether the engine is added or repaired.
    support: full
options:
  engine_key:
    description: Key of the engine, the SHA-256 of its C(key.json).
    type: str
    required: true
  graph:
    description: Digest of the graph that the engine must be compiled from.
    type: str
    required: true
  required:
    description: Fail when neither this host nor any source has the engine.
    type: bool
    default: false
extends_documentation_fragment:
  - onprem.deepseek.store
  - onprem.deepseek.store.sources
  - onprem.deepseek.store.cache
seealso:
  - module: onprem.deepseek.engine_release
"""

EXAMPLES = r"""
- name: Hold the engine of this host's GPU, if somebody has built it
  onprem.deepseek.engine_replica:
    store: /srv/deepseek/store
    model: tiny-onprem
    engine_key: "{{ wanted.key }}"
    graph: "{{ held.replica.graphs.fp16 }}"
    sources:
      - https://10.0.40.21:8443
      - https://10.0.40.22:8443
    public_key: /etc/deepseek/release.pub
    ca: /etc/deepseek/tls/ca.pem
    certificate: /etc/deepseek/tls/host.pem
    private_key: /etc/deepseek/tls/host.key
"""

RETURN = r"""
found:
  description: Whether this host has the engine now. In check mode, whether it would have.
  type: bool
  returned: success
state:
  description:
    - V(present) when this host's copy is whole, V(pulled) when it was missing, V(repaired) when something in it was wrong and is not any
      more, and V(absent) when there is none that may be used. In check mode, what it would be.
  type: str
  returned: success
  sample: present
engine:
  description: The engine on this host.
  type: dict
  returned: success
  contains:
    model:
      description: Name of the model.
      type: str
      returned: success
      sample: tiny-onprem
    key:
      description: Its key.
      type: str
      returned: success
    graph:
      description: Digest of the graph that it is compiled from.
      type: str
      returned: success
    path:
      description: Its directory in the store.
      type: str
      returned: success
    size:
      description: Bytes of payload.
      type: int
      returned: success
    fetched:
      description: Bytes that were pulled.
      type: int
      returned: success
    problems:
      description: What is wrong with this host's copy, as left. In check mode, as found.
      type: list
      elements: str
      returned: success
rebuild_reason:
  description: Why the engine had to be pulled, or should have been; empty when this host's copy is whole.
  type: str
  returned: success
evicted:
  description: Releases that went to make room, each as C(<model>/<version>).
  type: list
  elements: str
  returned: success
source_problems:
  description: What was wrong with which source. An engine can be pulled although this is not empty.
  type: dict
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
    cache_arguments,
    credentials_of,
    evictor,
    fetcher,
    runner,
    source_arguments,
    store_arguments,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.engines import (
    Request,
    Wanted,
    ensure_engine,
    missing_message,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import ReplicaError


def hold(module):
    params = module.params
    wanted = Wanted(
        params["model"], params["engine_key"], params["graph"], read_small(params["public_key"])
    )
    request = Request(params["store"], wanted, params["sources"], params["verify"] == "full")
    room = evictor(module)
    held = ensure_engine(
        request,
        fetcher(module),
        runner(module),
        credentials_of(module),
        module.check_mode,
        make_room=room.make_room if room else None,
    )
    if params["required"] and not held.found:
        raise ReplicaError(missing_message(request, held))
    after = held.before if held.state == "absent" else "present"
    return {
        "changed": held.changed,
        "found": held.found,
        "state": held.state,
        "engine": {
            "model": wanted.model,
            "key": wanted.key,
            "graph": wanted.graph,
            "path": held.copy.path,
            "size": held.copy.size,
            "fetched": held.copy.fetched,
            "problems": [str(problem) for problem in held.copy.problems],
        },
        "rebuild_reason": held.reason,
        "evicted": room.evicted if room else [],
        "source_problems": dict(held.source_problems),
        "diff": {
            "before": f"engine {wanted.key} {held.before}\n",
            "after": f"engine {wanted.key} {after}\n",
        },
    }


def main():
    module = HostModule(
        argument_spec={
            **store_arguments(),
            **source_arguments(),
            **cache_arguments(),
            "engine_key": {"type": "str", "required": True, "no_log": False},
            "graph": {"type": "str", "required": True},
            "required": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        result = hold(module)
    except (OSError, ArtifactError, ReplicaError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
