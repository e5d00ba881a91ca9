# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions with any PKCS#11 library, through PyKCS11.

Every refusal is a Pkcs11Error with a stable code, the problem and the remedy. A PIN is tried exactly
once, and not at all when another wrong one would lock the token. What nobody has started also leaves it
after the first wrong one: a service that is restarted would use up the tries of a token.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

from .encoding import ec_point, raw_ecdsa_to_der
from .objects import (
    CURVES,
    LABEL_BYTES,
    NO_PUBLIC,
    PADDING,
    REQUIRED_ATTRIBUTES,
    Key,
    KeySpec,
    Pkcs11Error,
    PublicNumbers,
    TokenInfo,
    token_label,
)
from .pin import refused_login


def load_api() -> Any:
    """The PyKCS11 module, or a failure that says what to install."""
    try:
        return importlib.import_module("PyKCS11")
    except ImportError as error:
        raise Pkcs11Error(
            "PYKCS11_MISSING", f"PyKCS11 cannot be imported: {error}.", "install python3-pykcs11."
        ) from error


def _bytes(value: Any) -> bytes:
    return bytes(bytearray(value))


class Library:
    """A loaded PKCS#11 library. `api` is the PyKCS11 module, `handle` its PyKCS11Lib."""

    def __init__(self, api: Any, handle: Any, path: str) -> None:
        self.api = api
        self.handle = handle
        self.path = path

    def _is(self, error: Any, *names: str) -> bool:
        """Whether an error is one of these; older versions of PyKCS11 do not know every name."""
        known = [getattr(self.api, name) for name in names if hasattr(self.api, name)]
        return getattr(error, "value", None) in known

    def failure(self, error: Any, doing: str) -> Pkcs11Error:
        """Translate an error that no caller expected."""
        if self._is(error, "CKR_DEVICE_MEMORY"):
            return Pkcs11Error(
                "TOKEN_FULL",
                f"{doing} through {self.path} failed: the token has no room left.",
                "destroy keys that nothing uses (onprem.deepseek.pkcs11_key with state=absent), or use a larger partition.",
            )
        if self._is(error, "CKR_TOKEN_NOT_PRESENT", "CKR_DEVICE_REMOVED", "CKR_SLOT_ID_INVALID"):
            return Pkcs11Error(
                "TOKEN_MISSING",
                f"{doing} through {self.path} failed: the token is gone ({error}).",
                "connect it again, and restart what used it.",
            )
        if self._is(error, "CKR_SESSION_COUNT"):
            return Pkcs11Error(
                "TOKEN_BUSY",
                f"{doing} through {self.path} failed: the token takes no more sessions.",
                "end programs that hold sessions, or raise the token's limit.",
            )
        return Pkcs11Error(
            "TOKEN_ERROR",
            f"{doing} through {self.path} failed: {error}.",
            "see the log of the PKCS#11 library; check that the token is connected and not full.",
        )

    def tokens(self) -> list[TokenInfo]:
        """Every token present, initialised or not."""
        try:
            return [self._token(slot) for slot in self.handle.getSlotList(True)]
        except self.api.PyKCS11Error as error:
            raise self.failure(error, "Listing the tokens") from error

    def _token(self, slot: int) -> TokenInfo:
        info = self.handle.getTokenInfo(slot)

        def text(value: Any) -> str:
            return str(value).rstrip(PADDING)

        def flag(name: str) -> bool:
            return bool(info.flags & int(getattr(self.api, name)))

        return TokenInfo(
            slot=int(slot),
            label=text(info.label),
            serial=text(info.serialNumber),
            manufacturer=text(info.manufacturerID),
            model=text(info.model),
            initialized=flag("CKF_TOKEN_INITIALIZED"),
            user_pin_initialized=flag("CKF_USER_PIN_INITIALIZED"),
            pin_count_low=flag("CKF_USER_PIN_COUNT_LOW"),
            pin_final_try=flag("CKF_USER_PIN_FINAL_TRY"),
            pin_locked=flag("CKF_USER_PIN_LOCKED"),
        )

    def lookup_token(self, label: str) -> TokenInfo | None:
        """The token with this label, None without one; two of them are an error."""
        wanted = token_label(label)
        found = [token for token in self.tokens() if token.initialized and token.label == wanted]
        if len(found) > 1:
            raise Pkcs11Error(
                "TOKEN_AMBIGUOUS",
                f"{len(found)} tokens are labelled {label!r} (serials {', '.join(t.serial for t in found)}).",
                "relabel or remove all but one.",
            )
        return found[0] if found else None

    def token(self, label: str) -> TokenInfo:
        """The token with this label."""
        found = self.lookup_token(label)
        if found is None:
            present = (
                ", ".join(repr(token.label) for token in self.tokens() if token.initialized)
                or "none"
            )
            raise Pkcs11Error(
                "TOKEN_MISSING",
                f"no token labelled {label!r} behind {self.path}; present: {present}.",
                "initialise it with onprem.deepseek.pkcs11_token, or correct the label (for SoftHSM also SOFTHSM2_CONF).",
            )
        return found

    def initialise_token(self, label: str, so_pin: str, pin: str) -> TokenInfo:
        """Initialise the first blank token, or finish one that has no user PIN yet. Never erases one."""
        label = token_label(label)
        existing = self.lookup_token(label)
        try:
            if existing is None:
                blank = [token for token in self.tokens() if not token.initialized]
                if not blank:
                    raise Pkcs11Error(
                        "TOKEN_NO_BLANK",
                        f"no blank token behind {self.path} to become {label!r}; an initialised one is never erased.",
                        "connect or create an empty token or partition.",
                    )
                # The standard wants blanks up to 32 bytes; PyKCS11 would leave NULs.
                padding = " " * (LABEL_BYTES - len(label.encode()))
                self.handle.initToken(blank[0].slot, so_pin, label + padding)
                existing = self.token(label)
            if not existing.user_pin_initialized:
                self._set_first_pin(existing, so_pin, pin)
        except self.api.PyKCS11Error as error:
            raise self.failure(error, f"Initialising token {label!r}") from error
        return self.token(label)

    def _set_first_pin(self, token: TokenInfo, so_pin: str, pin: str) -> None:
        session = self.handle.openSession(
            token.slot, self.api.CKF_SERIAL_SESSION | self.api.CKF_RW_SESSION
        )
        try:
            session.login(so_pin, self.api.CKU_SO)
            session.initPin(pin)
        finally:
            session.closeSession()

    @contextlib.contextmanager
    def session(self, label: str, pin: str) -> Iterator[Session]:
        """Log in once and hand out the session; log out and close at the end, whatever happens."""
        token = self.token(label)
        if token.login_refusal is not None:
            raise refused_login(self.path, token, token.login_refusal)
        try:
            handle = self.handle.openSession(
                token.slot, self.api.CKF_SERIAL_SESSION | self.api.CKF_RW_SESSION
            )
        except self.api.PyKCS11Error as error:
            raise self.failure(error, f"Opening a session on token {label!r}") from error
        try:
            self._login(handle, label, pin)
            yield Session(self, handle, token)
        finally:
            with contextlib.suppress(self.api.PyKCS11Error):
                handle.logout()
            with contextlib.suppress(self.api.PyKCS11Error):
                handle.closeSession()

    def _login(self, handle: Any, label: str, pin: str) -> None:
        try:
            handle.login(pin)
        except self.api.PyKCS11Error as error:
            if error.value in (
                self.api.CKR_PIN_INCORRECT,
                self.api.CKR_PIN_LEN_RANGE,
                self.api.CKR_PIN_INVALID,
            ):
                raise Pkcs11Error(
                    "LOGIN",
                    f"token {label!r} refused the PIN; it was tried once and is not tried again.",
                    "put the right PIN into the PIN file before the next run, which tries it; a wrong one costs one more try.",
                ) from error
            if error.value == self.api.CKR_PIN_LOCKED:
                raise Pkcs11Error(
                    "PIN_LOCKED",
                    f"token {label!r} is locked.",
                    "reset the PIN as security officer.",
                ) from error
            raise self.failure(error, f"Logging in to token {label!r}") from error


class Session:
    """A logged-in session on one token."""

    def __init__(self, library: Library, handle: Any, token: TokenInfo) -> None:
        self.library = library
        self.api = library.api
        self.handle = handle
        self.token = token

    def _find(
        self, object_class: int, label: str | None = None, key_id: bytes | None = None
    ) -> list[Any]:
        template: list[tuple[int, Any]] = [(self.api.CKA_CLASS, object_class)]
        if label is not None:
            template.append((self.api.CKA_LABEL, label))
        if key_id is not None:
            template.append((self.api.CKA_ID, key_id))
        try:
            return list(self.handle.findObjects(template))
        except self.api.PyKCS11Error as error:
            raise self.library.failure(error, f"Searching token {self.token.label!r}") from error

    def _values(self, handle: Any, names: list[str]) -> list[Any]:
        try:
            return list(
                self.handle.getAttributeValue(
                    handle, [getattr(self.api, "CKA_" + name) for name in names]
                )
            )
        except self.api.PyKCS11Error as error:
            raise self.library.failure(
                error, f"Reading an object of token {self.token.label!r}"
            ) from error

    def private_keys(self) -> list[Key]:
        """All private keys of the token whose kind we know."""
        return [self._key(handle) for handle in self._find(self.api.CKO_PRIVATE_KEY)]

    def lookup_key(self, label: str) -> Key | None:
        """The private key with this label, None without one; two of them are an error."""
        found = self._find(self.api.CKO_PRIVATE_KEY, label)
        if len(found) > 1:
            raise Pkcs11Error(
                "KEY_AMBIGUOUS",
                f"{len(found)} private keys in token {self.token.label!r} are labelled {label!r}.",
                "delete all but the one in use; the label is how a key is found.",
            )
        return self._key(found[0]) if found else None

    def has_orphan(self, label: str) -> bool:
        """Whether only the public half is left: somebody deleted the private key."""
        return bool(self._find(self.api.CKO_PUBLIC_KEY, label)) and not self._find(
            self.api.CKO_PRIVATE_KEY, label
        )

    def key(self, label: str) -> Key:
        """The private key with this label, refused if it could ever have left the token."""
        found = self.lookup_key(label)
        if found is None:
            raise Pkcs11Error(
                "KEY_MISSING",
                f"token {self.token.label!r} has no private key labelled {label!r}.",
                "generate it with onprem.deepseek.pkcs11_key, or correct the label.",
            )
        if found.public.spec == NO_PUBLIC:
            raise Pkcs11Error(
                "KEY_NO_PUBLIC",
                f"private key {label!r} in token {self.token.label!r} has no public key object with its label and id.",
                "restore the public key object from the certificate, or generate a new key.",
            )
        if found.weaknesses:
            raise Pkcs11Error(
                "KEY_WEAK",
                f"key {label!r} in token {self.token.label!r} is not safe to use: {'; '.join(found.weaknesses)}.",
                "generate a new key with onprem.deepseek.pkcs11_key and regenerate=if_changed.",
            )
        return found

    def _key(self, handle: Any) -> Key:
        label, key_id, key_type = self._values(handle, ["LABEL", "ID", "KEY_TYPE"])
        names = list(REQUIRED_ATTRIBUTES)
        values = self._values(handle, [name.upper() for name in names])
        key_id_bytes = _bytes(key_id or b"")
        return Key(
            label=str(label).rstrip("\0"),
            key_id=key_id_bytes.hex(),
            handle=handle,
            attributes={
                name: bool(value) for name, value in zip(names, values) if value is not None
            },
            public=self._public(str(label).rstrip("\0"), key_id_bytes, int(key_type)),
        )

    def _public(self, label: str, key_id: bytes, key_type: int) -> PublicNumbers:
        found = self._find(self.api.CKO_PUBLIC_KEY, label, key_id)
        if not found:
            return PublicNumbers(spec=NO_PUBLIC)
        if key_type == self.api.CKK_EC:
            parameters, point = self._values(found[0], ["EC_PARAMS", "EC_POINT"])
            curve = next((name for name, der in CURVES.items() if der == _bytes(parameters)), None)
            if curve is None:
                return PublicNumbers(spec=f"EC on curve {_bytes(parameters).hex()}")
            return PublicNumbers(spec=f"EC {curve}", point=ec_point(_bytes(point), curve))
        if key_type == self.api.CKK_RSA:
            modulus, exponent = self._values(found[0], ["MODULUS", "PUBLIC_EXPONENT"])
            number = int.from_bytes(_bytes(modulus), "big")
            return PublicNumbers(
                spec=f"RSA {number.bit_length()}",
                modulus=number,
                exponent=int.from_bytes(_bytes(exponent), "big"),
            )
        return PublicNumbers(spec=f"key type {key_type}")

    def generate(self, label: str, spec: KeySpec) -> Key:
        """Generate a key pair in the token; the caller made sure that the label is free."""
        api = self.api
        # Same id on both halves: this is how PKCS#11 software pairs them.
        key_id = secrets.token_bytes(16)
        common = [(api.CKA_TOKEN, True), (api.CKA_LABEL, label), (api.CKA_ID, key_id)]
        public = [
            *common,
            (api.CKA_PRIVATE, False),
            (api.CKA_VERIFY, True),
            (api.CKA_ENCRYPT, False),
            (api.CKA_WRAP, False),
        ]
        if spec.kind == "EC":
            public.append((api.CKA_EC_PARAMS, CURVES[spec.curve]))
            mechanism = api.CKM_EC_KEY_PAIR_GEN
        else:
            public.extend([(api.CKA_MODULUS_BITS, spec.bits), (api.CKA_PUBLIC_EXPONENT, (1, 0, 1))])
            mechanism = api.CKM_RSA_PKCS_KEY_PAIR_GEN
        # Every flag is set explicitly: defaults differ between tokens, and SoftHSM allows DECRYPT.
        private = [
            *common,
            (api.CKA_PRIVATE, True),
            (api.CKA_SENSITIVE, True),
            (api.CKA_EXTRACTABLE, False),
            (api.CKA_SIGN, True),
            (api.CKA_DECRYPT, False),
            (api.CKA_UNWRAP, False),
            (api.CKA_DERIVE, False),
        ]
        try:
            self.handle.generateKeyPair(public, private, mecha=api.Mechanism(mechanism, None))
        except api.PyKCS11Error as error:
            raise self.library.failure(
                error, f"Generating key {label!r} in token {self.token.label!r}"
            ) from error
        return self.key(label)

    def destroy(self, label: str) -> None:
        """Destroy both halves of a key. There is no way back."""
        for object_class in (self.api.CKO_PRIVATE_KEY, self.api.CKO_PUBLIC_KEY):
            for handle in self._find(object_class, label):
                try:
                    self.handle.destroyObject(handle)
                except self.api.PyKCS11Error as error:
                    raise self.library.failure(error, f"Destroying key {label!r}") from error

    def sign(self, key: Key, data: bytes, hash_name: str = "sha256") -> bytes:
        """Signature of data: DER ECDSA for an EC key, PKCS#1 v1.5 for an RSA key."""
        try:
            if key.public.spec.startswith("EC "):
                # Hashing here and CKM_ECDSA there: not every token knows the combined mechanisms.
                digest = hashlib.new(hash_name, data).digest()
                mechanism = self.api.Mechanism(self.api.CKM_ECDSA, None)
                return raw_ecdsa_to_der(_bytes(self.handle.sign(key.handle, digest, mechanism)))
            mechanism = self.api.Mechanism(
                getattr(self.api, f"CKM_{hash_name.upper()}_RSA_PKCS"), None
            )
            return _bytes(self.handle.sign(key.handle, data, mechanism))
        except self.api.PyKCS11Error as error:
            raise self.library.failure(error, f"Signing with key {key.label!r}") from error


@contextlib.contextmanager
def open_library(path: str, api: Any = None) -> Iterator[Library]:
    """Load a PKCS#11 library and finalise it at the end."""
    pykcs11 = api if api is not None else load_api()
    if not os.path.isfile(path):
        raise Pkcs11Error(
            "MODULE_MISSING",
            f"no PKCS#11 library at {path}.",
            "install it, or correct module_path.",
        )
    handle = pykcs11.PyKCS11Lib()
    try:
        handle.load(path)
    except pykcs11.PyKCS11Error as error:
        raise Pkcs11Error(
            "MODULE_LOAD",
            f"{path} cannot be loaded as a PKCS#11 library: {error}.",
            "check its architecture and its configuration (for SoftHSM: SOFTHSM2_CONF, readable by the user of this run).",
        ) from error
    try:
        yield Library(pykcs11, handle, path)
    finally:
        # PyKCS11 before 1.5.13 has no unload of its own.
        getattr(handle, "unload", handle.lib.Unload)()


def sign_bytes(module_path: str, token: str, key: str, pin: str, data: bytes) -> bytes:
    """SHA-256 signature of data by a key in a token (DER ECDSA for an EC key)."""
    with open_library(module_path) as library, library.session(token, pin) as session:
        return session.sign(session.key(key), data)
