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
  - onprem.deepseek.pkcs11.pin
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
  generate_pins:
    description:
      - Make O(pin_file) and O(so_pin_file) with random PINs where they are missing and the token does not exist yet.
      - The PINs are made on the host, are never on a command line and never in the result.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Have a token for the release key
  onprem.deepseek.pkcs11_token:
    module_path: /usr/lib/softhsm/libsofthsm2.so
    label: deepseek-release
    pin_file: /etc/deepseek/hsm/release/pin
    so_pin_file: /etc/deepseek/hsm/release/so-pin
    generate_pins: true
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

import os

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import HostModule
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.arguments import (
    common_arguments,
    decryptor,
    encryptor,
    library_of,
    pin_of,
    run,
    token_result,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.pin import (
    load_pin,
    write_new_pin,
)


def pin_files(params):
    """The files that an initialisation needs, each with the option that says whether it is a credential."""
    if not params["so_pin_file"]:
        raise Pkcs11Error(
            "PIN_FILE",
            f"token {params['label']!r} must be initialised, and so_pin_file is not given.",
            "point so_pin_file to the file with the security officer's PIN.",
        )
    return [(params["pin_file"], "pin_credential"), (params["so_pin_file"], "so_pin_credential")]


def find(module):
    """The token if it is ready to use. Its PIN is tried, once."""
    with library_of(module) as library:
        token = library.lookup_token(module.params["label"])
    if token is None or not token.user_pin_initialized:
        return token
    pin = pin_of(module)
    with library_of(module) as library, library.session(module.params["label"], pin):
        return token


def initialise(module):
    files = pin_files(module.params)
    for path, option in files:
        if module.params["generate_pins"] and not os.path.exists(path):
            write_new_pin(path, encryptor(module, option))
    pin, so_pin = (load_pin(path, decryptor(module, option)) for path, option in files)
    with library_of(module) as library:
        return library.initialise_token(module.params["label"], so_pin, pin)


def work(module):
    label = module.params["label"]
    token = find(module)
    if token is not None and token.user_pin_initialized:
        return {"changed": False, "token": token_result(token), "diff": {"before": "", "after": ""}}
    pin_files(module.params)
    made = None if module.check_mode else initialise(module)
    return {
        "changed": True,
        "token": token_result(made) if made is not None else {},
        "diff": {"before": "", "after": f"token {label} initialised\n"},
    }


def main():
    arguments = common_arguments()
    arguments.update(
        label={"type": "str", "required": True},
        so_pin_file={"type": "path"},
        so_pin_credential={"type": "str"},
        generate_pins={"type": "bool", "default": False},
    )
    run(HostModule(argument_spec=arguments, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
