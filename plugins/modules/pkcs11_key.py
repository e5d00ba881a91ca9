#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_key
short_description: Generate a signing key in a PKCS#11 token
version_added: "0.1.0"
description:
  - Makes sure that a token holds a private key with a label, that the key was generated there and can never leave it.
  - The key may sign and nothing else.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
  - onprem.deepseek.pkcs11.pin
attributes:
  check_mode:
    description: Reads the token and says what would be done.
    support: full
  diff_mode:
    description: Shows kind and attributes of the key before and after.
    support: full
options:
  token:
    description: Label of the token.
    type: str
    required: true
  label:
    description: Label of the key, unique in the token.
    type: str
    required: true
  state:
    description:
      - V(present) makes sure that there is such a key.
      - V(absent) destroys the key with this label, both halves. There is no way back.
    type: str
    choices: [present, absent]
    default: present
  type:
    description: Kind of key.
    type: str
    choices: [EC, RSA]
    default: EC
  curve:
    description: Curve of an EC key.
    type: str
    choices: [P-256, P-384]
    default: P-256
  bits:
    description: Size of an RSA key.
    type: int
    choices: [3072, 4096]
    default: 3072
  regenerate:
    description:
      - What to do with a key that is there but is not what was asked for, or of which only the public half is left.
      - V(fail) stops and says what differs. V(never) leaves it as it is and warns.
      - V(if_changed) destroys it and generates a new one. V(always) does so at every run.
      - A missing key is generated under every policy.
    type: str
    choices: [never, fail, if_changed, always]
    default: fail
"""

EXAMPLES = r"""
- name: Have a key for the gateway
  onprem.deepseek.pkcs11_key:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-gateway
    label: gateway
    pin_file: /etc/deepseek/hsm/gateway/pin
    user: haproxy
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/gateway/softhsm2.conf

- name: Destroy a key that nothing uses any more
  onprem.deepseek.pkcs11_key:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    token: deepseek-gateway
    label: gateway-20261101T020000Z
    state: absent
    pin_file: /etc/deepseek/hsm/gateway/pin
    user: haproxy
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/gateway/softhsm2.conf
"""

RETURN = r"""
key:
  description: The key, without anything secret; empty in check mode when it would be generated, and with O(state=absent).
  type: dict
  returned: success
  sample:
    label: gateway
    id: 0428ea721aea8ce2f04b4b03c8b032f5
    kind: EC P-256
    attributes: {never_extractable: true, local: true}
    weaknesses: []
    public_key: "-----BEGIN PUBLIC KEY-----..."
uri:
  description: PKCS#11 URI of the private key.
  type: str
  returned: success
  sample: pkcs11:token=deepseek-gateway;object=gateway;type=private
uri_pem:
  description: The URI in PEM, as pkcs11-provider reads it in place of a key file. Holds no secret.
  type: str
  returned: success
recreate_reason:
  description: Why a new key was or would be generated, empty otherwise.
  type: str
  returned: success
"""


from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    key_result,
    run,
    session_of,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.encoding import (
    key_uri,
    uri_pem,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import (
    KeySpec,
    Pkcs11Error,
)


def difference(session, key, spec, label):
    """What is wrong with what stands under this label, None if nothing."""
    if key is None:
        return "only the public half of the key is left" if session.has_orphan(label) else None
    if key.public.spec != str(spec):
        return f"the key is {key.public.spec}, wanted {spec}"
    return "; ".join(key.weaknesses) or None


def decide(session, key, spec, params):
    """Reason to generate a key now, empty if none; refuses what the policy forbids."""
    wrong = difference(session, key, spec, params["label"])
    if key is None and wrong is None:
        return "there is no key with this label"
    if params["regenerate"] == "always":
        return wrong or "regenerate is always"
    if wrong and params["regenerate"] == "fail":
        raise Pkcs11Error(
            "KEY_DIFFERS",
            f"key {params['label']!r} in token {params['token']!r} is not as wanted: {wrong}. It is left as it is.",
            "correct the arguments, or set regenerate=if_changed to destroy it and generate a new one.",
        )
    return wrong if wrong and params["regenerate"] == "if_changed" else ""


def text(key):
    if key is None:
        return ""
    return "".join(
        f"{name}: {value}\n"
        for name, value in [("kind", key.public.spec), *sorted(key.attributes.items())]
    )


def remove(session, params, check_mode):
    """Destroy the key, or say that it would be."""
    before = session.lookup_key(params["label"])
    changed = before is not None or session.has_orphan(params["label"])
    if changed and not check_mode:
        session.destroy(params["label"])
    return {
        "changed": changed,
        "key": {},
        "recreate_reason": "",
        "diff": {"before": text(before), "after": ""},
    }


def work(module):
    params = module.params
    spec = KeySpec(params["type"], params["curve"], params["bits"])
    uri = key_uri(params["token"], params["label"])
    with session_of(module) as session:
        if params["state"] == "absent":
            return {
                **remove(session, params, module.check_mode),
                "uri": uri,
                "uri_pem": uri_pem(uri),
            }
        before = after = session.lookup_key(params["label"])
        reason = decide(session, before, spec, params)
        if reason and not module.check_mode:
            session.destroy(params["label"])
            after = session.generate(params["label"], spec)
        elif not reason and (wrong := difference(session, before, spec, params["label"])):
            module.warn(f"key {params['label']!r} is kept although {wrong}")
        after_text = (
            text(after) if after is not before else f"kind: {spec}\n" if reason else text(before)
        )
        return {
            "changed": bool(reason),
            "key": key_result(after) if after is not None else {},
            "uri": uri,
            "uri_pem": uri_pem(uri),
            "recreate_reason": reason,
            "diff": {"before": text(before), "after": after_text},
        }


def main():
    arguments = common_arguments()
    arguments.update(
        token={"type": "str", "required": True, "no_log": False},
        label={"type": "str", "required": True},
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        type={"type": "str", "choices": ["EC", "RSA"], "default": "EC"},
        curve={"type": "str", "choices": ["P-256", "P-384"], "default": "P-256"},
        bits={"type": "int", "choices": [3072, 4096], "default": 3072},
        regenerate={
            "type": "str",
            "choices": ["never", "fail", "if_changed", "always"],
            "default": "fail",
        },
    )
    run(HostModule(argument_spec=arguments, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
