#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_signature
short_description: Sign a JSON document with a key in a PKCS#11 token
version_added: "0.1.0"
description:
  - Returns a signature over SHA-256 of the document, ECDSA (DER) or RSA PKCS#1 v1.5, as C(openssl dgst -sha256 -verify) checks it.
    It writes nothing, neither to the token nor to disk.
  - Only a JSON object is signed, so that what it signs can never be taken for what the key signs elsewhere (certificates are DER, and
    models are signed in DSSE envelopes, whose signed bytes begin with C(DSSEv1)).
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
  content:
    description: The document, a JSON object. It is signed as it is, encoded in UTF-8.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Sign a report
  onprem.deepseek.pkcs11_signature:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    key: release-signing
    pin_file: /etc/deepseek/hsm/release/pin
    content: "{{ report | to_nice_json(sort_keys=true) }}"
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/release/softhsm2.conf
  register: signed
"""

RETURN = r"""
signature:
  description: The signature, in Base64.
  type: str
  returned: success
public_key:
  description: The public half of the key, in PEM.
  type: str
  returned: success
sha256:
  description: SHA-256 of what was signed.
  type: str
  returned: success
"""

import base64
import hashlib
import json

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    run,
    session_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import public_pem


def document_of(content):
    """The bytes to sign, refused unless they are a JSON object from the first to the last."""
    try:
        is_object = content.startswith("{") and isinstance(json.loads(content), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise Pkcs11Error(
            "CONTENT", "the content is no JSON object.", "sign nothing else with this module."
        )
    return content.encode()


def work(module):
    params = module.params
    data = document_of(params["content"])
    with session_of(module) as session:
        key = session.key(params["key"])
        signature = session.sign(key, data)
    return {
        "changed": False,
        "signature": base64.b64encode(signature).decode(),
        "public_key": public_pem(key.public),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def main():
    arguments = common_arguments()
    arguments.update(
        token={"type": "str", "required": True, "no_log": False},
        key={"type": "str", "required": True, "no_log": False},
        content={"type": "str", "required": True},
    )
    run(HostModule(argument_spec=arguments, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
