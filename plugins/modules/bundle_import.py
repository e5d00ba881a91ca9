#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_import
short_description: Verify a bundle and import it into a site
version_added: "0.1.0"
description:
  - Reads every byte of a bundle, compares it with the signed manifest, and compares what is in it with what the site needs. Everything that
    is wrong is said at once, and nothing is changed then.
  - Unpacks the bundle beside what is in use, signs its lists of packages with the site's own key, and puts it in its place in one step.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Verifies everything, says whether the bundle would be imported, and changes nothing.
    support: full
  diff_mode:
    description: There is no text whose difference could be shown.
    support: none
options:
  directory:
    description: Directory of the bundle.
    type: path
    required: true
  public_key:
    description: File with the public half of the key that the bundle is signed with. It must not have come with the bundle.
    type: path
    required: true
  site_dir:
    description: Directory for imported bundles. C(current) in it is a link to the one in use; the one before is kept.
    type: path
    required: true
  keyring_dir:
    description: Directory for the key that signs lists of packages, which is made when there is none. gpg keeps it.
    type: path
    required: true
  key_name:
    description: Name of that key, when it is made.
    type: str
    default: onprem.deepseek packages
  needs:
    description: What hosts must find in the bundle.
    type: list
    elements: dict
    default: []
    suboptions:
      where:
        description: Who needs it, as reports name it.
        type: str
        required: true
      kind:
        description: Kind of the content.
        type: str
        choices: [apt, wheels, collection, docs, images]
        required: true
      variant:
        description: The Debian release's codename, or the flavour of the engine.
        type: str
        default: ""
      provides:
        description: Packages, or versions of Python.
        type: list
        elements: str
        default: []
      architecture:
        description: Machine type of the host, as C(uname -m) prints it. Empty for any.
        type: str
        default: ""
  allow_older:
    description: Whether a bundle may have a lower serial than the one that the site uses.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Import the bundle
  onprem.deepseek.bundle_import:
    directory: /media/bundle
    public_key: /etc/deepseek/bundle.pub
    site_dir: /srv/deepseek/bundle
    keyring_dir: /etc/deepseek/bundle-keyring
    needs:
      - where: gateway-1
        kind: apt
        variant: bookworm
        architecture: x86_64
"""

RETURN = r"""
serial:
  description: Number of the bundle.
  type: int
  returned: success
site:
  description: Directory of the imported bundle.
  type: str
  returned: success
contents:
  description: The bundle's contents, each with its C(kind) and C(variant).
  type: dict
  returned: success
faults:
  description: Everything that speaks against the bundle, each with C(where), C(what) and C(remedy).
  type: list
  elements: dict
  returned: failure
"""

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import read_small
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.debian import sign_indexes
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.layout import CONTENT_KINDS
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.site import (
    Need,
    Order,
    import_bundle,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import module_runner
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule


def work(module):
    given = module.params
    order = Order(
        directory=given["directory"],
        public_key=read_small(given["public_key"]),
        site=given["site_dir"],
        needs=[Need(**{**need, "provides": tuple(need["provides"])}) for need in given["needs"]],
        allow_older=given["allow_older"],
    )

    def finish(stage, description):
        lists = [name for name, one in description.contents.items() if one.kind == "apt"]
        run = module_runner(module)
        sign_indexes(run, stage, lists, given["keyring_dir"], given["key_name"])

    outcome = import_bundle(order, finish, not module.check_mode)
    if outcome.faults:
        lines = [str(fault) for fault in outcome.faults]
        module.fail_json(
            msg="\n".join([f"{given['directory']} was not imported, and nothing changed.", *lines]),
            faults=[fault.as_dict() for fault in outcome.faults],
        )
    return {
        "changed": outcome.changed,
        "serial": outcome.serial,
        "site": outcome.directory,
        "contents": {name: one.as_dict() for name, one in outcome.contents.items()},
    }


def main():
    need = {
        "where": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": list(CONTENT_KINDS), "required": True},
        "variant": {"type": "str", "default": ""},
        "provides": {"type": "list", "elements": "str", "default": []},
        "architecture": {"type": "str", "default": ""},
    }
    module = HostModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "public_key": {"type": "path", "required": True, "no_log": False},
            "site_dir": {"type": "path", "required": True},
            "keyring_dir": {"type": "path", "required": True, "no_log": False},
            "key_name": {"type": "str", "default": "onprem.deepseek packages", "no_log": False},
            "needs": {"type": "list", "elements": "dict", "default": [], "options": need},
            "allow_older": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except (OSError, ArtifactError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
