#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_csr
short_description: Make a certificate signing request with a key in a PKCS#11 token
version_added: "0.1.0"
description:
  - Returns a signing request that is signed in the token. It writes nothing, neither to the token nor to disk.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
  - onprem.deepseek.pkcs11.pin
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  token:
    description: Label of the token.
    type: str
    required: true
  key:
    description: Label of the private key.
    type: str
    required: true
  common_name:
    description: Common name of the subject.
    type: str
    required: true
  names:
    description: Subject alternative names, each C(DNS:name) or C(IP:address).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Ask for the gateway's certificate
  onprem.deepseek.pkcs11_csr:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-gateway
    key: gateway
    pin_file: /etc/deepseek/hsm/gateway/pin
    common_name: deepseek.example.org
    names: ["DNS:deepseek.example.org"]
  register: request
"""

RETURN = r"""
csr:
  description: The request in PEM.
  type: str
  returned: success
uri_pem:
  description: The key's PKCS#11 URI in PEM, as pkcs11-provider reads it in place of a key file. Holds no secret.
  type: str
  returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    run,
    session_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.encoding import (
    key_uri,
    uri_pem,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import signing_request
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import token_key


def work(module):
    params = module.params
    with session_of(module) as session:
        csr = signing_request(
            params["common_name"], params["names"], token_key(session, params["key"])
        )
    return {
        "changed": False,
        "csr": csr,
        "uri_pem": uri_pem(key_uri(params["token"], params["key"])),
    }


def main():
    arguments = common_arguments()
    arguments.update(
        token={"type": "str", "required": True, "no_log": False},
        key={"type": "str", "required": True, "no_log": False},
        common_name={"type": "str", "required": True},
        names={"type": "list", "elements": "str", "default": []},
    )
    run(HostModule(argument_spec=arguments, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
