#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_retire
short_description: Remove a release that is not in use
version_added: "0.1.0"
description:
  - Removes a release from this host's store, and those of its artifacts that no other release on this host names, with their engines.
  - Refuses a version that is in use, and removes nothing while a release on this host is not what was signed, since then nobody can
    tell which artifacts it needs.
  - Leaves a record, by which the version is not pulled again by this host, and not published again. An interrupted run is resumed by the next.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Says what would be removed, and removes nothing.
    support: full
  diff_mode:
    description: Shows which files and directories are removed.
    support: full
options:
  store:
    description: Directory of the store.
    type: path
    required: true
  model:
    description: Name of the model.
    type: str
    required: true
  version:
    description: Version of the model that is to go.
    type: str
    required: true
  public_key:
    description: PEM file with the site's release public key (EC P-256).
    type: path
    required: true
  keep:
    description: The versions of the model that are active, or were active before. None of them is removed.
    type: list
    elements: str
    required: true
requirements:
  - cryptography >= 38 (Debian package python3-cryptography)
"""

EXAMPLES = r"""
- name: Remove a release that nobody goes back to
  onprem.deepseek.model_retire:
    store: /srv/deepseek/store
    model: tiny-onprem
    version: 1.0.0
    keep: [1.1.0, 1.2.0]
    public_key: /etc/deepseek/release.pub
"""

RETURN = r"""
removed:
  description: Files and directories that were removed; in check mode, that would be.
  type: list
  elements: str
  returned: success
freed:
  description: Bytes on disk of what was removed. Bytes that a file shares with another one are counted too.
  type: int
  returned: success
"""

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import read_small
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    HAS_CRYPTOGRAPHY,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import ReplicaError
from ansible_collections.onprem.deepseek.plugins.module_utils.store.retire import (
    RetireError,
    Retirement,
    retire,
)


def work(module):
    params = module.params
    asked = Retirement(
        params["store"],
        params["model"],
        params["version"],
        read_small(params["public_key"]),
        params["keep"],
    )
    done = retire(asked, module.check_mode)
    return {
        "changed": done.changed,
        "removed": done.removed,
        "freed": done.freed,
        "diff": {"before": "".join(f"{path}\n" for path in done.removed), "after": ""},
    }


def main():
    module = HostModule(
        argument_spec={
            "store": {"type": "path", "required": True},
            "model": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "public_key": {"type": "path", "required": True},
            "keep": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    if not HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography"))
    try:
        result = work(module)
    except (OSError, ArtifactError, ReplicaError, RetireError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
