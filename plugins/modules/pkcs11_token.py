#!/usr/bin/python

# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: pkcs11_token
short_description: Initialise a PKCS#11 token
version_added: "0.1.0"
description:
  - Makes sure that a token with a label exists and that its user PIN is the one in a file.
  - Takes the first blank token. A token that is initialised already is never erased.
author:
  - "onprem.deepseek maintainers (@onprem-deepseek)"
extends_documentation_fragment:
  - onprem.deepseek.pkcs11
attributes:
  check_mode:
    description: Says what would be done and does not touch the token.
    support: full
  diff_mode:
    description: Shows the token before and after.
    support: full
options:
  label:
    description: Label of the token, at most 32 bytes.
    type: str
    required: true
  so_pin_file:
    description:
      - File that holds the PIN of the security officer, in the same form as O(pin_file).
      - Needed only to initialise a token.
    type: path
  so_pin_credential:
    description: Name of the systemd credential when O(so_pin_file) was made by C(systemd-creds encrypt).
    type: str
"""

EXAMPLES = r"""
- name: Have a token for the release key
  onprem.deepseek.pkcs11_token:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    label: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
    so_pin_file: /etc/deepseek/hsm/release/so-pin
  environment:
    SOFTHSM2_CONF: /etc/deepseek/hsm/release/softhsm2.conf
"""

RETURN = r"""
token:
  description: The token as its library describes it; empty in check mode when it would be created.
  type: dict
  returned: success
  sample:
    label: deepseek-release
    serial: 7f0b03a246c87788
    manufacturer: SoftHSM project
    model: SoftHSM v2
    slot: 1926555528
    initialized: true
    user_pin_initialized: true
    pin_count_low: false
    pin_final_try: false
    pin_locked: false
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import Pkcs11Failure, load_pin
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11_module import (
    common_arguments,
    decryptor,
    library_of,
    pin_of,
    run,
    token_result,
)


def so_pin_of(module):
    path = module.params["so_pin_file"]
    if not path:
        raise Pkcs11Failure(
            "PIN_FILE",
            f"token {module.params['label']!r} must be initialised, and so_pin_file is not given.",
            "point so_pin_file to the file with the security officer's PIN.",
        )
    return load_pin(path, decryptor(module, "so_pin_credential"))


def work(module):
    label = module.params["label"]
    pin = pin_of(module)
    with library_of(module) as library:
        before = library.lookup_token(label)
        if before is not None and before.user_pin_initialized:
            with library.session(label, pin):
                pass
            return {"changed": False, "token": token_result(before), "diff": {"before": "", "after": ""}}
    so_pin = so_pin_of(module)
    result = {
        "changed": True,
        "token": {},
        "diff": {"before": "", "after": f"token {label} initialised\n"},
    }
    if not module.check_mode:
        with library_of(module) as library:
            result["token"] = token_result(library.initialise_token(label, so_pin, pin))
    return result


def main():
    arguments = common_arguments()
    arguments["pin_file"] = {"type": "path", "required": True}
    arguments.update(
        label={"type": "str", "required": True},
        so_pin_file={"type": "path"},
        so_pin_credential={"type": "str"},
    )
    run(AnsibleModule(argument_spec=arguments, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
