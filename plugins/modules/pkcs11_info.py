#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_info
short_description: Look into PKCS#11 tokens and prove that a key works
version_added: "0.1.0"
description:
  - Lists tokens with their PIN flags and, with a PIN, the private keys of one token with their attributes.
  - With O(prove=true) it signs a nonce in the token and verifies the signature, so it fails when the key is gone, can leave
    the token, cannot sign, or does not belong to the certificate, and when the certificate is not valid by the host's clock.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
attributes:
  check_mode:
    description: Does the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
options:
  pin_file:
    description:
      - File that holds the user PIN, without a newline at the end and not readable by everyone. Needed with O(token).
      - The PIN is tried once. It is not tried at all when the token says that few tries are left.
    type: path
  token:
    description: Label of the token whose keys are listed. Without it only tokens are listed and no PIN is tried.
    type: str
  key:
    description:
      - Label of a key that must be there.
      - Without it, the key whose PKCS#11 URI is in the file O(certificate), otherwise the key that the certificate is for.
    type: str
  prove:
    description: Sign a nonce with O(key), or with the key that the file O(certificate) names, and verify it.
    type: bool
    default: false
  certificate:
    description: File with the certificate whose public key must verify the nonce. The first certificate in the file counts.
    type: path
  names:
    description: Names, each C(DNS:name) or C(IP:address), which O(certificate), that of a CA, is asked for whether it may sign them.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Prove that the gateway's key is in the token, cannot leave it and belongs to the certificate
  onprem.deepseek.pkcs11_info:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-gateway
    pin_file: /etc/deepseek/hsm/gateway/pin
    key: gateway
    prove: true
    certificate: /etc/deepseek/tls/gateway.pem
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/gateway/softhsm2.conf
"""

RETURN = r"""
tokens:
  description: Every token that the library shows.
  type: list
  elements: dict
  returned: success
private_keys:
  description: Private keys of the token, without anything secret. Empty without O(token).
  type: list
  elements: dict
  returned: success
certificate:
  description: Subject, issuer, names, permitted subtrees, serial, validity and fingerprint of O(certificate), empty without it.
  type: dict
  returned: success
names_outside:
  description: Those of O(names) that the CA of O(certificate) may not sign, by its name constraints.
  type: list
  elements: str
  returned: success
key_label:
  description: Label of the key that was looked for, or that the file O(certificate) names; empty if none.
  type: str
  returned: success
  sample: gateway
proof:
  description: Whether a nonce was signed in the token and verified, and whether it was verified by the certificate.
  type: dict
  returned: success
  sample: {signed: true, certificate_matches: true}
"""

import datetime
import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    key_result,
    library_of,
    pin_of,
    run,
    token_result,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.certificates import (
    check_clock,
    describe,
    load_certificate,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.constraints import (
    constraints_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.encoding import key_label
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import prove
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import label_of


def certificate_of(params):
    """The certificate in the file, and the label of the key that the file names."""
    if not params["certificate"]:
        return None, None
    try:
        with open(params["certificate"], encoding="utf-8") as handle:
            text = handle.read()
        return load_certificate(text, params["certificate"]), key_label(text)
    except OSError as error:
        raise Pkcs11Error(
            "CERTIFICATE",
            f"{params['certificate']} cannot be read: {error}.",
            "issue the certificate, or correct the path.",
        ) from error


def look(session, params, label, certificate):
    """Keys of the token and the proof; the key that is meant must be there and be safe."""
    if not label and certificate is not None:
        label = label_of(session, certificate)
    if label:
        session.key(label)
    if params["prove"]:
        if certificate is not None:
            check_clock(certificate, datetime.datetime.now(datetime.timezone.utc))
        prove(session, label, certificate, os.urandom(32))
    return {
        "key_label": label,
        "private_keys": [key_result(key) for key in session.private_keys()],
        "proof": {
            "signed": params["prove"],
            "certificate_matches": params["prove"] and certificate is not None,
        },
    }


def outside(certificate, names):
    """Those of the names that the CA may not sign."""
    constraints = constraints_of(certificate) if certificate is not None else None
    return constraints.outside(names) if constraints else []


def work(module):
    params = module.params
    certificate, named = certificate_of(params)
    label = params["key"] or named or ""
    result = {
        "changed": False,
        "private_keys": [],
        "proof": {"signed": False, "certificate_matches": False},
        "certificate": describe(certificate) if certificate is not None else {},
        "key_label": label,
        "names_outside": outside(certificate, params["names"]),
    }
    pin = pin_of(module) if params["token"] else ""
    with library_of(module) as library:
        result["tokens"] = [token_result(token) for token in library.tokens()]
        if params["token"]:
            with library.session(params["token"], pin) as session:
                result.update(look(session, params, label, certificate))
    return result


def main():
    arguments = common_arguments()
    arguments.update(
        pin_file={"type": "path"},
        token={"type": "str", "no_log": False},
        key={"type": "str", "no_log": False},
        prove={"type": "bool", "default": False},
        certificate={"type": "path"},
        names={"type": "list", "elements": "str", "default": []},
    )
    module = HostModule(
        argument_spec=arguments,
        supports_check_mode=True,
        required_by={"token": "pin_file", "key": "token"},
        required_if=[("prove", True, ["token"]), ("prove", True, ["key", "certificate"], True)],
    )
    run(module, work)


if __name__ == "__main__":
    main()
