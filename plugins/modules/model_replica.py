#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_replica
short_description: Hold a whole, verified copy of a release
version_added: "0.1.0"
description:
  - Verifies this host's copy of a release and, where anything is missing or damaged, pulls it from the given sources.
  - The release must carry the site's signature. Everything below it is pinned by digest, and aria2 checks every piece of 64 MiB
    while it fetches from all sources at once, so a source that is down, slow or corrupt does not matter as long as another is right.
  - Artifacts appear under their final name only when every byte was verified, and the release file only after all of them.
  - Contacts no source when this host's copy is whole.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Verifies this host's copy as usual, contacts no source and changes nothing.
    support: full
  diff_mode:
    description: Shows which release and artifacts are added or repaired.
    support: full
options:
  version:
    description: Version of the model.
    type: str
    required: true
  kinds:
    description: Which artifacts of the release to hold. An inference host needs only V(graph).
    type: list
    elements: str
    choices: [checkpoint, graph]
    default: [checkpoint, graph]
  precisions:
    description: Hold only the graphs of these precisions. By default those of all. An inference host needs only the one that it serves.
    type: list
    elements: str
    default: []
  release_sha256:
    description: SHA-256 that the release file must have, as returned by M(onprem.deepseek.model_release).
    type: str
extends_documentation_fragment:
  - onprem.deepseek.store
  - onprem.deepseek.store.sources
  - onprem.deepseek.store.cache
"""

EXAMPLES = r"""
- name: Hold a verified copy of the active release
  onprem.deepseek.model_replica:
    store: /srv/deepseek/store
    model: tiny-onprem
    version: 1.0.0
    sources:
      - https://10.0.40.21:8443
      - https://10.0.40.22:8443
    public_key: /etc/deepseek/release.pub
    ca: /etc/deepseek/tls/ca.pem
    certificate: /etc/deepseek/tls/host.pem
    private_key: /etc/deepseek/tls/host.key
"""

RETURN = r"""
replica:
  description: This host's copy, as left. In check mode, as found.
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
    signature:
      description: Whether the release carries a signature of the site's key, V(valid), V(invalid) or V(missing).
      type: str
      returned: success
    artifacts:
      description:
        - Kind, digest, path, size, number of files, bytes fetched, problems left, problems repaired and state of each artifact.
        - The state is V(complete) when every byte was verified, V(present) when only sizes were, V(missing) or V(damaged), and
          after a pull also V(pulled) or V(repaired).
      type: list
      elements: dict
      returned: success
    size:
      description: Bytes of payload of all artifacts together.
      type: int
      returned: success
    verified:
      description: Whether the signatures and every byte were verified, and all is right.
      type: bool
      returned: success
    problems:
      description: Every difference between this copy and what was signed.
      type: list
      elements: str
      returned: success
rebuild_reason:
  description: Why something had to be pulled from a source, empty when nothing had.
  type: str
  returned: success
evicted:
  description: Releases that went to make room, each as C(<model>/<version>).
  type: list
  elements: str
  returned: success
source_problems:
  description: What was wrong with which source. A release can be pulled although this is not empty.
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
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    ReplicaError,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.replica import ensure_replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import inspect_replica


def lines(state):
    """A copy as text, for the diff."""
    items = [f"release {state['model']}/{state['version']} {state['sha256'] or state['signature']}"]
    for item in state["artifacts"]:
        whole = item["state"] not in ("missing", "damaged")
        items.append(f"{item['kind']} {item['digest']} {'whole' if whole else item['state']}")
    return "".join(f"{item}\n" for item in items)


def hold(module):
    params = module.params
    request = Request(
        store=params["store"],
        model=params["model"],
        version=params["version"],
        public_key=read_small(params["public_key"]),
        sources=params["sources"],
        kinds=params["kinds"],
        precisions=params["precisions"],
        full=params["verify"] == "full",
        release_digest=params["release_sha256"],
    )
    room = evictor(module)
    before = inspect_replica(request)
    after = ensure_replica(
        request,
        fetcher(module),
        runner(module),
        credentials_of(module),
        before,
        module.check_mode,
        make_room=room.make_room if room else None,
    )
    old, new = before.as_dict(request), after.as_dict(request)
    return {
        "changed": after.changed,
        "replica": new,
        "rebuild_reason": "; ".join(old["problems"]) if after.changed else "",
        "evicted": room.evicted if room else [],
        "source_problems": after.source_problems,
        "diff": {"before": lines(old), "after": lines(new)},
    }


def main():
    module = HostModule(
        argument_spec={
            **store_arguments(),
            **source_arguments(),
            **cache_arguments(),
            "version": {"type": "str", "required": True},
            "kinds": {
                "type": "list",
                "elements": "str",
                "choices": ["checkpoint", "graph"],
                "default": ["checkpoint", "graph"],
            },
            "precisions": {"type": "list", "elements": "str", "default": []},
            "release_sha256": {"type": "str"},
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
