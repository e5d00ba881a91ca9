#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_release_info
short_description: List the releases on a host and verify their bytes
version_added: "0.1.0"
description:
  - Lists every release in a store with its digests, size and signature state.
  - With O(verify=full) it hashes every byte and compares it with what was signed.
  - With O(sources) it also asks which other hosts have the same release. Without, it asks no other host.
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
  store:
    description: Directory of the store.
    type: path
    required: true
  public_key:
    description: PEM file with the site's release public key (EC P-256).
    type: path
    required: true
  model:
    description: Only releases of this model.
    type: str
  version:
    description: Only this version. A release that is named by O(model) and O(version) is reported also when it is missing.
    type: str
  kinds:
    description: Which artifacts of a release this host should hold.
    type: list
    elements: str
    choices: [checkpoint, graph]
    default: [checkpoint, graph]
  precisions:
    description: Of which precisions this host should hold the graphs. By default of all.
    type: list
    elements: str
    default: []
  verify:
    description: Hash every byte (V(full)), or compare sizes and metadata only (V(quick)).
    type: str
    choices: [full, quick]
    default: quick
  fail_on_problems:
    description: Fail when a release is missing, damaged or not signed by the site's key.
    type: bool
    default: false
  sources:
    description: Base URLs of hosts that serve the store over mutual TLS 1.3, to be asked for the same releases.
    type: list
    elements: str
    default: []
  ca:
    description: PEM file with the certificate authority of the sources. Required with O(sources).
    type: path
  certificate:
    description: PEM file with this host's certificate. Required with O(sources).
    type: path
  private_key:
    description: PEM file with the private key of O(certificate). Required with O(sources).
    type: path
  timeout:
    description: Seconds to wait for a source that does not answer.
    type: float
    default: 5.0
requirements:
  - cryptography >= 38 (Debian package python3-cryptography)
"""

EXAMPLES = r"""
- name: Verify every byte of the active release on this host
  onprem.deepseek.model_release_info:
    store: /srv/deepseek/store
    public_key: /etc/deepseek/release.pub
    model: tiny-onprem
    version: 1.0.0
    verify: full
    fail_on_problems: true

- name: Show how many storage hosts have each release
  onprem.deepseek.model_release_info:
    store: /srv/deepseek/store
    public_key: /etc/deepseek/release.pub
    sources: ["https://10.0.40.31:8443", "https://10.0.40.32:8443", "https://10.0.40.33:8443"]
    ca: /etc/deepseek/tls/ca.pem
    certificate: /etc/deepseek/tls/host.pem
    private_key: /etc/deepseek/tls/host.key
"""

RETURN = r"""
releases:
  description: The releases on this host.
  type: list
  elements: dict
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
    replicas:
      description: Those of O(sources) that have the same release. A storage host shows a release only when it holds all of it.
      type: list
      elements: str
      returned: success
source_problems:
  description: What was wrong with which source, the last of each.
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
    fetcher,
    source_arguments,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    ReplicaError,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import Sources, replicas
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
)


def survey(params, sources):
    """State of each release that is asked for."""
    public_key = read_small(params["public_key"])
    listed = list_releases(params["store"], params["model"], params["version"])
    if params["model"] and params["version"] and not listed:
        listed = [(params["model"], params["version"])]
    states = []
    for model, version in listed:
        request = Request(
            params["store"],
            model,
            version,
            public_key,
            kinds=params["kinds"],
            precisions=params["precisions"],
            full=params["verify"] == "full",
        )
        found = inspect_replica(request)
        others = replicas(sources, model, version, found.digest) if found.digest else []
        states.append({**found.as_dict(request), "replicas": others})
    return states


def main():
    arguments = source_arguments()
    for name in ("ca", "certificate", "private_key"):
        arguments[name]["required"] = False
    module = HostModule(
        argument_spec={
            **arguments,
            "store": {"type": "path", "required": True},
            "public_key": {"type": "path", "required": True},
            "model": {"type": "str"},
            "version": {"type": "str"},
            "kinds": {
                "type": "list",
                "elements": "str",
                "choices": ["checkpoint", "graph"],
                "default": ["checkpoint", "graph"],
            },
            "precisions": {"type": "list", "elements": "str", "default": []},
            "verify": {"type": "str", "choices": ["full", "quick"], "default": "quick"},
            "fail_on_problems": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if module.params["sources"]:
        lacking = [name for name in ("ca", "certificate", "private_key") if not module.params[name]]
        if lacking:
            module.fail_json(msg=f"sources are given, and not {', '.join(lacking)}.")
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        sources = Sources(module.params["sources"], fetcher(module))
        releases = survey(module.params, sources)
    except (OSError, ArtifactError, ReplicaError) as error:
        module.fail_json(msg=str(error))
    problems = [
        f"{item['model']}/{item['version']}: {problem}"
        for item in releases
        for problem in item["problems"]
    ]
    if problems and module.params["fail_on_problems"]:
        module.fail_json(
            msg=f"The store {module.params['store']} is not right: " + "; ".join(problems),
            releases=releases,
        )
    module.exit_json(changed=False, releases=releases, source_problems=sources.problems)


if __name__ == "__main__":
    main()
