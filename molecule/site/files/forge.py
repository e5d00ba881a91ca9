"""Certificates that must be refused, and valid ones beside them, made with the CA's key.

``forge.py NAME...`` on the release host. For each name: ``valid``, ``revoked`` (the caller revokes
it) and ``expired`` by the CA, and ``self`` signed; and ``stranger``, valid for a name that no
listener knows. Prints their files, and the serial numbers of what is to be revoked.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.certificates import (
    certificate_pem,
    load_certificate,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import (
    Wanted,
    issue,
    self_signed,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.pin import read_pin
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.session import open_library
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import (
    label_of,
    token_key,
)

TLS = Path("/etc/deepseek/tls")
MODULE, TOKEN, PIN = "/usr/lib/softhsm/libsofthsm2.so", "deepseek-ca", "/etc/deepseek/hsm/ca/pin"


def new_key():
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, text.decode()


def main() -> None:
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    chain = (TLS / "issuing.pem").read_text()
    authority = load_certificate(chain, "issuing.pem")
    files, serials = {}, []
    with open_library(MODULE) as library, library.session(TOKEN, read_pin(PIN)) as session:
        signer = token_key(session, label_of(session, authority))

        def signed(kind: str, name: str, when: datetime.datetime):
            key, files[f"{kind}-{name}.key"] = new_key()
            wanted = Wanted(name, (f"DNS:{name}",), "peer", 10, 1)
            made = issue(wanted, key.public_key(), authority, signer, when)
            files[f"{kind}-{name}.pem"] = certificate_pem(made) + chain
            return made

        for name in sys.argv[1:]:
            signed("valid", name, now)
            signed("expired", name, now - datetime.timedelta(days=40))
            serials.append(f"{signed('revoked', name, now).serial_number:x}")
            key, files[f"self-{name}.key"] = new_key()
            made = self_signed(Wanted(name, (f"DNS:{name}",), "peer", 10, 1), key, now)
            files[f"self-{name}.pem"] = certificate_pem(made)
        # below the service's own name, which is what the CA may sign
        signed("stranger", "printer-7.deepseek.lab.internal", now)
    print(json.dumps({"files": files, "serials": serials}))


if __name__ == "__main__":
    main()
