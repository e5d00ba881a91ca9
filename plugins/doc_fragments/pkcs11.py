# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation shared by the pkcs11_* modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Options that every pkcs11_* module has."""

    DOCUMENTATION = r"""
options:
  module_path:
    description:
      - PKCS#11 library, for example V(/usr/lib/softhsm/libsofthsm2.so) or the vendor's.
      - A library that is configured by the environment (C(SOFTHSM2_CONF)) gets it from the task's C(environment).
    type: path
    required: true
  pin_credential:
    description:
      - Name of the systemd credential when O(pin_file) was made by C(systemd-creds encrypt); it is decrypted in memory.
      - Without it O(pin_file) is plain text, or, where there is no such file, the credential C(hsm-pin) in the file of that name with
        C(.cred) at its end.
    type: str
  user:
    description:
      - Use the library as this user. SoftHSM keeps tokens in files that belong to the user that creates them.
      - The PIN is read before, as the user of the task.
    type: str
requirements:
  - PyKCS11 (Debian package python3-pykcs11)
  - cryptography >= 38 (Debian package python3-cryptography)
"""

    PIN = r"""
options:
  pin_file:
    description:
      - File that holds the user PIN, without a newline at the end and not readable by everyone.
      - The PIN is tried once. It is not tried at all when the token says that few tries are left.
    type: path
    required: true
"""
