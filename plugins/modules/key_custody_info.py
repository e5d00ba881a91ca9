#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key_custody_info
short_description: Look who could copy the keys of a host
version_added: "0.1.0"
description:
  - Says which PINs are plain files, whether the root CA's token is on the host, whether there is a TPM 2, and whether the disk of the tokens
    is encrypted. It reads no PIN and no key.
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
  config_dir:
    description: Directory of the configuration, with the PINs below C(hsm).
    type: path
    required: true
  token_dir:
    description: Directory of the tokens of SoftHSM. Where it does not exist, the nearest directory above it counts.
    type: path
    required: true
  tls_dir:
    description: Directory of the certificates.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Look who could copy the keys
  onprem.deepseek.key_custody_info:
    config_dir: /etc/deepseek
    token_dir: /var/lib/deepseek/hsm
    tls_dir: /etc/deepseek/tls
"""

RETURN = r"""
custody:
  description: What was found.
  type: dict
  returned: success
  contains:
    plain_pins:
      description: Names of the tokens whose PIN is a plain file.
      type: list
      elements: str
    root_here:
      description: Whether the root's token or PIN is on the host.
      type: bool
    authority:
      description: Whether the root has signed an issuing CA here.
      type: bool
    tpm2:
      description: Whether the host has a TPM 2.
      type: bool
    encrypted:
      description: Whether the disk of the tokens is encrypted; V(null) where that cannot be seen.
      type: bool
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.custody import state


def main():
    paths = {
        name: {"type": "path", "required": True} for name in ("config_dir", "token_dir", "tls_dir")
    }
    module = HostModule(argument_spec=paths, supports_check_mode=True)
    params = module.params
    module.exit_json(
        changed=False, custody=state(params["config_dir"], params["token_dir"], params["tls_dir"])
    )


if __name__ == "__main__":
    main()
