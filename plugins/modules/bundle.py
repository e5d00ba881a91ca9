#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Make a bundle for sites without a network
version_added: "0.1.0"
description:
  - Packs directories into archives of parts, with a bill of materials (CycloneDX), a program that verifies the bundle, and a manifest that
    names every part by size and SHA-256. The format is that of an artifact.
  - The same directories give the same bytes. Parts that are there and right are kept, so that an interrupted run is resumed.
  - The manifest is signed by another task, with M(onprem.deepseek.pkcs11_signature). The signature of another manifest is removed.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
attributes:
  check_mode:
    description: Reads everything, says which files would be written, and writes nothing.
    support: full
  diff_mode:
    description: There is no text whose difference could be shown.
    support: none
options:
  directory:
    description: Directory of the bundle. Files that are of no bundle are refused in it.
    type: path
    required: true
  contents:
    description: What the bundle has.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the content, which its parts and its directory at the site have.
        type: str
        required: true
      kind:
        description: What it is.
        type: str
        choices: [apt, wheels, collection, docs, images]
        required: true
      directory:
        description: Directory with its files. Tarballs of a collection are rewritten in it without the time of their making.
        type: path
        required: true
      variant:
        description: The Debian release's codename, or the flavour of the engine.
        type: str
        default: ""
      release:
        description: Number of the Debian release, as feeds of vulnerabilities name it.
        type: str
        default: ""
      provides:
        description: Names of the packages, or versions of Python.
        type: list
        elements: str
        default: []
  architecture:
    description: Machine type of the hosts, as C(uname -m) prints it.
    type: str
    default: x86_64
  epoch:
    description: Seconds since 1970 that the bundle is dated by. No clock is read for it.
    type: int
    required: true
  part_size_mib:
    description: Size of parts. 4000 fits on FAT file systems and DVDs.
    type: int
    default: 4000
  serial:
    description:
      - Number of the bundle. A site refuses one that is lower than what it uses. 0 keeps that of the bundle that is there if nothing
        changed, and is otherwise higher by one, and not lower than the day (C(2026112800)).
    type: int
    default: 0
  feed:
    description: File with known vulnerabilities in OSV's format, JSON or a zip archive of it. Those of what is in the bundle are listed.
    type: path
  module_utils:
    description: Directory C(plugins/module_utils) of this collection, whose parts the program that verifies the bundle is made of.
    type: path
    required: true
  public_key:
    description: File with the public half of the key that signs the bundle, to see whether the signature there is still right.
    type: path
"""

EXAMPLES = r"""
- name: Make the bundle
  onprem.deepseek.bundle:
    directory: /srv/bundle/medium
    module_utils: plugins/module_utils
    epoch: 1764288000
    contents:
      - name: apt-bookworm
        kind: apt
        directory: /srv/bundle/apt-bookworm
        variant: bookworm
        release: "12"
        provides: [haproxy, openssl]
"""

RETURN = r"""
serial:
  description: Number of the bundle.
  type: int
  returned: success
written:
  description: Files of the bundle that were written or removed, or in check mode would be.
  type: list
  elements: str
  returned: success
signed:
  description: Whether the signature there is one of this manifest, by O(public_key).
  type: bool
  returned: success
manifest:
  description: The manifest, as it is to be signed.
  type: str
  returned: success
size:
  description: Bytes of all files of the manifest.
  type: int
  returned: success
components:
  description: How many packages the bill of materials has.
  type: int
  returned: success
without_license:
  description: Those of them that name no license.
  type: list
  elements: str
  returned: success
vulnerabilities:
  description: Identifiers of the feed's vulnerabilities that are in the bundle.
  type: list
  elements: str
  returned: success
"""

import os
import time

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import read_small
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import ArtifactError
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.collection import undate
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.components import (
    debian_components,
    wheel_components,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.create import (
    Plan,
    Source,
    create,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.layout import (
    CONTENT_KINDS,
    MANIFEST_SIGNATURE,
    SBOM,
    VERIFIER,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.program import verifier_bytes
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.sbom import bill_of_materials
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.signature import (
    check_signature,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.bundle.vulnerabilities import (
    find,
    read_feed,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.common.import_closure import (
    ClosureError,
)


def components_of(contents):
    found = []
    for one in contents:
        if one["kind"] == "apt":
            found += debian_components(
                one["name"], one["directory"], one["variant"], one["release"]
            )
        elif one["kind"] == "wheels":
            found += wheel_components(one["name"], one["directory"])
    return found


def is_signed(directory, manifest, public_key):
    if not public_key or not os.path.exists(public_key):
        return False
    try:
        signature = read_small(os.path.join(directory, MANIFEST_SIGNATURE))
        check_signature(read_small(public_key), manifest, signature)
    except (OSError, ArtifactError):
        return False
    return True


def work(module):
    given = module.params
    contents = given["contents"]
    tarballs = [one["directory"] for one in contents if one["kind"] == "collection"]
    collection = undate(tarballs[0]) if tarballs else ""
    components = components_of(contents)
    known = find(read_feed(given["feed"]), components) if given["feed"] else []
    sbom = bill_of_materials(components, known, collection, given["epoch"])
    plan = Plan(
        directory=given["directory"],
        sources={
            one["name"]: Source(
                one["kind"], one["directory"], tuple(one["provides"]), one["variant"]
            )
            for one in contents
        },
        small={SBOM: sbom, VERIFIER: verifier_bytes(given["module_utils"])},
        collection=collection,
        architecture=given["architecture"],
        epoch=given["epoch"],
        part_size=given["part_size_mib"] * 1024 * 1024,
        today=int(time.strftime("%Y%m%d", time.gmtime())),
        serial=given["serial"],
    )
    made = create(plan, not module.check_mode)
    manifest = made.manifest.to_bytes()
    return {
        "changed": bool(made.changed),
        "serial": made.serial,
        "written": made.changed,
        "signed": is_signed(given["directory"], manifest, given["public_key"]),
        "manifest": manifest.decode("ascii"),
        "size": made.manifest.size,
        "components": len(components),
        "without_license": sorted(
            f"{one.content}/{one.file}"
            for one in components
            if not one.licenses and not one.expression
        ),
        "vulnerabilities": [one.identifier for one in known],
    }


def main():
    content = {
        "name": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": list(CONTENT_KINDS), "required": True},
        "directory": {"type": "path", "required": True},
        "variant": {"type": "str", "default": ""},
        "release": {"type": "str", "default": ""},
        "provides": {"type": "list", "elements": "str", "default": []},
    }
    module = HostModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "contents": {"type": "list", "elements": "dict", "required": True, "options": content},
            "architecture": {"type": "str", "default": "x86_64"},
            "epoch": {"type": "int", "required": True},
            "part_size_mib": {"type": "int", "default": 4000},
            "serial": {"type": "int", "default": 0},
            "feed": {"type": "path"},
            "public_key": {"type": "path", "no_log": False},
            "module_utils": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except (OSError, ArtifactError, ClosureError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
