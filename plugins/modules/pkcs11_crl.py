#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_crl
short_description: Revoke certificates with a CA key in a PKCS#11 token
version_added: "0.1.0"
description:
  - Makes sure that a certificate revocation list is signed by the CA, has time left, and names what is to be revoked.
  - What is on the list stays on it.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
  - onprem.deepseek.pkcs11.pin
  - ansible.builtin.files
attributes:
  check_mode:
    description: Says why a list would be made and does not make it.
    support: full
  diff_mode:
    description: Shows the revoked serial numbers before and after.
    support: full
options:
  path:
    description: File of the revocation list in PEM.
    type: path
    required: true
  token:
    description: Label of the token that holds the CA key.
    type: str
    required: true
  ca_certificate:
    description: File with the CA certificate. The key that it is for must be in the token, and signs.
    type: path
    required: true
  revoke:
    description: Serial numbers to revoke, in hexadecimal.
    type: list
    elements: str
    default: []
  revoke_names:
    description: Common names of which every certificate in O(archive) that this CA has made and that has not ended is revoked.
    type: list
    elements: str
    default: []
  archive:
    description: Directory with the certificates that CAs have made. Needed with O(revoke_names).
    type: path
  validity_days:
    description: Days for which a new list is valid. Where it has ended, every certificate of the CA is refused.
    type: int
    default: 30
  renew_before_days:
    description: A list with so many days left, or fewer, is made again.
    type: int
    default: 15
"""

EXAMPLES = r"""
- name: Revoke all certificates of a host
  onprem.deepseek.pkcs11_crl:
    path: /etc/deepseek/tls/crl-issuing.pem
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-ca
    pin_file: /etc/deepseek/hsm/ca/pin
    ca_certificate: /etc/deepseek/tls/issuing.pem
    revoke_names: [inference-2]
    archive: /etc/deepseek/tls/issued/archive
"""

RETURN = r"""
revoked:
  description: Serial numbers on the list, in hexadecimal.
  type: list
  elements: str
  returned: success
number:
  description: Number of the list.
  type: int
  returned: success
next_update:
  description: When the list ends.
  type: str
  returned: success
recreate_reason:
  description: Why a new list was or would be made, empty otherwise.
  type: str
  returned: success
"""

import datetime
import os
import tempfile

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    run,
    session_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.certificates import (
    common_name,
    load_certificate,
    not_after,
    signed_by,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.revocation import (
    crl_number,
    crl_pem,
    crl_reason,
    load_revocations,
    next_update,
    revocation_list,
    revoked_serials,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import (
    label_of,
    token_key,
)


def text_of(path):
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def present(path):
    return load_revocations(text_of(path), path) if os.path.exists(path) else None


def issuer_of(params):
    try:
        return load_certificate(text_of(params["ca_certificate"]), params["ca_certificate"])
    except OSError as error:
        raise Pkcs11Error(
            "CA_MISSING",
            f"{params['ca_certificate']} cannot be read: {error}.",
            "make the CA certificate first.",
        ) from error


def serials_of(params, issuer, now):
    """What is to be revoked."""
    try:
        serials = {int(serial.replace(":", ""), 16) for serial in params["revoke"]}
    except ValueError as error:
        raise Pkcs11Error(
            "SERIAL", f"a serial number is not hexadecimal: {error}.", "correct revoke."
        ) from error
    for name in sorted(os.listdir(params["archive"])) if params["revoke_names"] else []:
        path = os.path.join(params["archive"], name)
        certificate = load_certificate(text_of(path), path)
        named = common_name(certificate) in params["revoke_names"]
        if named and not_after(certificate) > now and signed_by(certificate, issuer):
            serials.add(certificate.serial_number)
    return serials


def lines(revoked):
    return "".join(f"{serial:x}\n" for serial in sorted(revoked))


def write(module, text):
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    module.atomic_move(temporary, module.params["path"])


def work(module):
    params = module.params
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    issuer, current = issuer_of(params), present(params["path"])
    wanted = serials_of(params, issuer, now)
    days = datetime.timedelta(days=params["renew_before_days"])
    reason = crl_reason(current, wanted, issuer, days, now) or ""
    before = revoked_serials(current) if current is not None else {}
    revoked = {**dict.fromkeys(wanted, now), **before}
    number = crl_number(current) if current is not None else 0
    end = next_update(current).isoformat() if current is not None else ""
    if reason and not module.check_mode:
        validity = datetime.timedelta(days=params["validity_days"])
        with session_of(module) as session:
            key = token_key(session, label_of(session, issuer))
            made = revocation_list(revoked, number + 1, validity, issuer, key, now)
        write(module, crl_pem(made))
        number, end = number + 1, next_update(made).isoformat()
    changed = bool(reason)
    if os.path.exists(params["path"]):
        arguments = module.load_file_common_arguments(params)
        changed = module.set_fs_attributes_if_different(arguments, changed)
    return {
        "changed": changed,
        "revoked": [f"{serial:x}" for serial in sorted(revoked)],
        "number": number,
        "next_update": end,
        "recreate_reason": reason,
        "diff": {"before": lines(before), "after": lines(revoked)},
    }


def main():
    arguments = common_arguments()
    arguments.update(
        path={"type": "path", "required": True},
        token={"type": "str", "required": True, "no_log": False},
        ca_certificate={"type": "path", "required": True},
        revoke={"type": "list", "elements": "str", "default": []},
        revoke_names={"type": "list", "elements": "str", "default": []},
        archive={"type": "path"},
        validity_days={"type": "int", "default": 30},
        renew_before_days={"type": "int", "default": 15},
    )
    module = HostModule(
        argument_spec=arguments,
        supports_check_mode=True,
        add_file_common_args=True,
    )
    if module.params["revoke_names"] and not module.params["archive"]:
        module.fail_json(msg="revoke_names needs archive")
    run(module, work)


if __name__ == "__main__":
    main()
