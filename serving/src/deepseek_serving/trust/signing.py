"""Sign a directory with OpenSSF model-signing; the key stays in its PKCS#11 token."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deepseek_serving.artifacts.names import SIGNATURE
from deepseek_serving.errors import SigningError

# PKCS#11 fills a token's label with blanks; some programs leave NULs.
PADDING = " \0"


def _pin(path: Path) -> str:
    try:
        pin = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SigningError(f"{path}: the PIN file cannot be read: {error}") from error
    if not pin:
        raise SigningError(f"{path}: the PIN file is empty")
    return pin


def _slot(module: Path, label: str) -> int:
    """The slot of the token with this label; the padding of neither side counts."""
    import PyKCS11

    library = PyKCS11.PyKCS11Lib()
    library.load(str(module))
    found = {}
    for slot in library.getSlotList(tokenPresent=True):
        token = library.getTokenInfo(slot)
        if token.flags & PyKCS11.CKF_TOKEN_INITIALIZED:
            found[slot] = token.label.rstrip(PADDING)
    slots = [int(slot) for slot, name in found.items() if name == label.rstrip(PADDING)]
    if len(slots) != 1:
        present = ", ".join(sorted(map(repr, found.values()))) or "none"
        raise SigningError(
            f"{len(slots)} tokens behind {module} are labelled {label!r}; tokens: {present}; "
            "with SoftHSM, SOFTHSM2_CONF says where tokens are"
        )
    return slots[0]


def sign(directory: Path, *, token: str, key: str, module: Path, pin_file: Path) -> None:
    """Write directory/model.sig, signed by the EC key `key` of the token labelled `token`."""
    # imported here: the service itself never signs and need not load a PKCS#11 binding
    import model_signing
    import PyKCS11

    if not directory.is_dir():
        raise SigningError(f"{directory}: no such directory")
    if not module.is_file():
        raise SigningError(f"{module}: no such PKCS#11 module; is its package installed?")
    signature = directory / SIGNATURE
    descriptor, name = tempfile.mkstemp(prefix=f".{directory.name}.sig.", dir=directory.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        # The URI with the PIN exists in this process only. The slot is named by number: the library
        # knows a token by its label only if the label is padded with blanks, and some are not.
        uri = (
            f"pkcs11:slot-id={_slot(module, token)};object={quote(key, safe='')};type=private"
            f"?pin-value={quote(_pin(pin_file), safe='')}&module-path={quote(str(module))}"
        )
        config = model_signing.signing.Config().use_pkcs11_signer(pkcs11_uri=uri)
        config.set_hashing_config(_hashing()).sign(directory, partial)
        partial.chmod(0o644)
        os.replace(partial, signature)
    except (PyKCS11.PyKCS11Error, ValueError) as error:
        raise SigningError(
            f"token {token!r}, key {key!r}: cannot sign with {module}: {error}; check the token's "
            "and the key's label, the PIN and, with SoftHSM, SOFTHSM2_CONF"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _hashing() -> Any:
    import model_signing

    return model_signing.hashing.Config().set_ignored_paths(
        paths=[SIGNATURE], ignore_git_paths=False
    )
