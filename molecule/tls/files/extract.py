"""Try each way that PKCS#11 has to take a private key out of a token; exit 0 if all fail."""

from __future__ import annotations

import sys

import PyKCS11


def attempts(session, key, wrapping):
    """Name of each attempt and a call that returns the secret if it succeeds."""
    return {
        "read CKA_VALUE": lambda: bytes(
            session.getAttributeValue(key, [PyKCS11.CKA_VALUE])[0] or b""
        ),
        "make it extractable": lambda: (
            session.setAttributeValue(key, [(PyKCS11.CKA_EXTRACTABLE, True)]) or b"changed"
        ),
        "make it not sensitive": lambda: (
            session.setAttributeValue(key, [(PyKCS11.CKA_SENSITIVE, False)]) or b"changed"
        ),
        "wrap it": lambda: bytes(
            session.wrapKey(wrapping, key, PyKCS11.Mechanism(PyKCS11.CKM_AES_KEY_WRAP_PAD, None))
        ),
    }


def main():
    module, token, label, pin = sys.argv[1], sys.argv[2], sys.argv[3], sys.stdin.read()
    library = PyKCS11.PyKCS11Lib()
    library.load(module)
    slot = next(
        slot
        for slot in library.getSlotList(True)
        if str(library.getTokenInfo(slot).label).strip() == token
    )
    session = library.openSession(slot, PyKCS11.CKF_SERIAL_SESSION | PyKCS11.CKF_RW_SESSION)
    session.login(pin)
    (key,) = session.findObjects(
        [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY), (PyKCS11.CKA_LABEL, label)]
    )
    wrapping = session.generateKey(
        [
            (PyKCS11.CKA_CLASS, PyKCS11.CKO_SECRET_KEY),
            (PyKCS11.CKA_KEY_TYPE, PyKCS11.CKK_AES),
            (PyKCS11.CKA_VALUE_LEN, 32),
            (PyKCS11.CKA_WRAP, True),
            (PyKCS11.CKA_TOKEN, False),
        ]
    )
    leaked = False
    for name, attempt in attempts(session, key, wrapping).items():
        try:
            got = attempt()
        except PyKCS11.PyKCS11Error as error:
            print(f"{name}: refused ({error})")
            continue
        print(f"{name}: {'LEAKED' if got else 'nothing'}")
        leaked = leaked or bool(got)
    return 1 if leaked else 0


if __name__ == "__main__":
    sys.exit(main())
