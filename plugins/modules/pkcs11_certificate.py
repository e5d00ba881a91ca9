#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_certificate
short_description: Make an X.509 certificate with a CA key in a PKCS#11 token
version_added: "0.1.0"
description:
  - Makes sure that a file holds a certificate with the wanted key, names and usages and enough time left.
  - The subject and the names come from the arguments, never from the signing request. A request proves only who has the key.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
  - onprem.deepseek.pkcs11.pin
  - ansible.builtin.files
attributes:
  check_mode:
    description: Says why a certificate would be made and does not make it.
    support: full
  diff_mode:
    description: Shows subject, names and validity before and after.
    support: full
options:
  path:
    description: Certificate file in PEM.
    type: path
    required: true
  token:
    description: Label of the token that holds the CA key.
    type: str
    required: true
  provider:
    description:
      - V(selfsigned) signs the certificate of O(key) with O(key) itself.
      - V(issue) signs with the key that O(ca_certificate) is for, for the key in O(csr_content) or O(key) of the same token.
    type: str
    choices: [selfsigned, issue]
    default: issue
  key:
    description: Label of the key in the token that the certificate is for.
    type: str
  csr_content:
    description: Signing request in PEM by the key that the certificate is for.
    type: str
  ca_certificate:
    description: File with the CA certificate.
    type: path
  crl:
    description: Revocation list of the CA. A certificate that is on it is made again. May be missing.
    type: path
  archive:
    description: Directory that keeps a copy of each certificate that is made, by serial number, so that it can be revoked later.
    type: path
  common_name:
    description: Common name of the subject.
    type: str
    required: true
  names:
    description: Subject alternative names, each C(DNS:name) or C(IP:address).
    type: list
    elements: str
    default: []
  profile:
    description:
      - What the certificate may be used for. V(peer) is server and client.
      - V(root) has path length 1, so it signs CAs. V(ca) has path length 0, so it signs hosts and no further CA.
    type: str
    choices: [root, ca, server, client, peer]
    default: server
  permitted:
    description:
      - What a CA may sign, for profiles V(ca) and V(root), each C(DNS:domain), which is a domain and all below it, or C(IP:network).
        An address with the size of its network will do. Of a kind that is named, nothing else is permitted. Empty is everything.
      - A CA whose certificate permits more is left as it is, one without any such constraint, too, until it is renewed or its key changes.
    type: list
    elements: str
    default: []
  validity_days:
    description: Days for which a new certificate is valid.
    type: int
    default: 90
  renew_before_days:
    description: A certificate with so many days left, or fewer, is made again. Must be less than O(validity_days).
    type: int
    default: 30
  regenerate:
    description:
      - What to do with a certificate that is there but is not as wanted, or is about to end.
      - V(if_changed) makes a new one, V(fail) stops and says what differs, V(never) keeps it and warns.
      - V(always) makes a new one at every run. A missing certificate is made under every policy.
    type: str
    choices: [never, fail, if_changed, always]
    default: if_changed
"""

EXAMPLES = r"""
- name: Have a CA certificate
  onprem.deepseek.pkcs11_certificate:
    path: /etc/deepseek/tls/ca.pem
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
    provider: selfsigned
    key: ca
    profile: ca
    common_name: deepseek internal CA
    validity_days: 3650
    renew_before_days: 365

- name: Sign a host's request
  onprem.deepseek.pkcs11_certificate:
    path: /etc/deepseek/tls/issued/inference-1.pem
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
    ca_certificate: /etc/deepseek/tls/ca.pem
    csr_content: "{{ request.stdout }}"
    common_name: inference-1
    names: ["DNS:inference-1", "IP:10.0.30.21"]
    profile: peer
"""

RETURN = r"""
content:
  description: The certificate in PEM; in check mode the present one, empty without one.
  type: str
  returned: success
certificate:
  description: Subject, issuer, names, permitted subtrees, serial, validity and fingerprint; empty where there is no certificate yet.
  type: dict
  returned: success
recreate_reason:
  description: Why a new certificate was or would be made, empty otherwise.
  type: str
  returned: success
  sample: it ends 2026-12-01T00:00:00+00:00, in 8 days, and is renewed 30 days before
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
    certificate_pem,
    describe,
    load_certificate,
    load_request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import (
    Wanted,
    issue,
    recreate_reason,
    self_signed,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.revocation import (
    load_revocations,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import (
    label_of,
    public_key,
    token_key,
)


def read(path):
    """The certificate in a file, None where there is no file."""
    try:
        with open(path, encoding="utf-8") as handle:
            return load_certificate(handle.read(), path)
    except FileNotFoundError:
        return None


def present(path):
    """The certificate to judge; what cannot be read is as good as none and will be replaced."""
    try:
        return read(path), None
    except (Pkcs11Error, UnicodeDecodeError) as error:
        return None, f"the file holds no certificate ({error})"


def issuer_of(params):
    """The CA certificate, None for a certificate that signs itself."""
    if params["provider"] == "selfsigned":
        return None
    certificate = read(params["ca_certificate"])
    if certificate is None:
        raise Pkcs11Error(
            "CA_MISSING",
            f"no CA certificate at {params['ca_certificate']}.",
            "make it with provider=selfsigned.",
        )
    return certificate


def subject_key(session, params):
    if params["csr_content"]:
        return load_request(params["csr_content"]).public_key()
    return public_key(session.key(params["key"]).public)


def revocations(params):
    """The revocation list, None without one."""
    if not params["crl"] or not os.path.exists(params["crl"]):
        return None
    with open(params["crl"], encoding="utf-8") as handle:
        return load_revocations(handle.read(), params["crl"])


def judge(params, wanted, key, issuer, now):
    """The present certificate, and the reason to make another, empty if none."""
    current, broken = present(params["path"])
    crl = revocations(params)
    reason = broken or recreate_reason(current, wanted, key, issuer, now, crl) or ""
    if current is None:
        return current, reason
    if params["regenerate"] == "always":
        return current, reason or "regenerate is always"
    if reason and params["regenerate"] == "fail":
        raise Pkcs11Error(
            "CERTIFICATE_DIFFERS",
            f"{params['path']} is not as wanted: {reason}. It is left as it is.",
            "correct the arguments, or set regenerate=if_changed to make a new certificate.",
        )
    return current, reason


def make(session, params, wanted, key, issuer, now):
    if issuer is None:
        return self_signed(wanted, token_key(session, params["key"]), now)
    return issue(wanted, key, issuer, token_key(session, label_of(session, issuer)), now)


def write(module, certificate):
    paths = [module.params["path"]]
    if module.params["archive"]:
        paths.insert(
            0, os.path.join(module.params["archive"], f"{certificate.serial_number:x}.pem")
        )
    for path in paths:
        descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            handle.write(certificate_pem(certificate))
        module.atomic_move(temporary, path)


def text(certificate):
    return (
        ""
        if certificate is None
        else "".join(f"{name}: {value}\n" for name, value in describe(certificate).items())
    )


def work(module):
    params = module.params
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    wanted = Wanted(
        params["common_name"],
        tuple(params["names"]),
        params["profile"],
        params["validity_days"],
        params["renew_before_days"],
        tuple(params["permitted"]),
    )
    issuer = issuer_of(params)
    with session_of(module) as session:
        key = subject_key(session, params)
        current, reason = judge(params, wanted, key, issuer, now)
        if reason and current is not None and params["regenerate"] == "never":
            module.warn(f"{params['path']} is kept although {reason}")
            reason = ""
        after = (
            make(session, params, wanted, key, issuer, now)
            if reason and not module.check_mode
            else current
        )
    if after is not current:
        write(module, after)
    changed = bool(reason)
    if after is not None and os.path.exists(params["path"]):
        changed = module.set_fs_attributes_if_different(
            module.load_file_common_arguments(params), changed
        )
    after_text = f"to be made: {reason}\n" if reason and after is current else text(after)
    return {
        "changed": changed,
        "content": certificate_pem(after) if after is not None else "",
        "certificate": describe(after) if after is not None else {},
        "recreate_reason": reason,
        "diff": {"before": text(current), "after": after_text},
    }


def main():
    arguments = common_arguments()
    arguments.update(
        path={"type": "path", "required": True},
        token={"type": "str", "required": True, "no_log": False},
        provider={"type": "str", "choices": ["selfsigned", "issue"], "default": "issue"},
        key={"type": "str", "no_log": False},
        csr_content={"type": "str"},
        ca_certificate={"type": "path"},
        crl={"type": "path"},
        archive={"type": "path"},
        common_name={"type": "str", "required": True},
        names={"type": "list", "elements": "str", "default": []},
        profile={
            "type": "str",
            "choices": ["root", "ca", "server", "client", "peer"],
            "default": "server",
        },
        permitted={"type": "list", "elements": "str", "default": []},
        validity_days={"type": "int", "default": 90},
        renew_before_days={"type": "int", "default": 30},
        regenerate={
            "type": "str",
            "choices": ["never", "fail", "if_changed", "always"],
            "default": "if_changed",
        },
    )
    module = HostModule(
        argument_spec=arguments,
        supports_check_mode=True,
        add_file_common_args=True,
        mutually_exclusive=[("key", "csr_content")],
        required_one_of=[("key", "csr_content")],
        required_if=[
            ("provider", "selfsigned", ["key"]),
            ("provider", "issue", ["ca_certificate"]),
        ],
    )
    run(module, work)


if __name__ == "__main__":
    main()
