# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tokens and keys in a real SoftHSM2 token; only lock-out flags, which it lacks, use a fake."""

from __future__ import annotations

import base64
import os
import shutil
import types
from pathlib import Path
from typing import Any

import PyKCS11
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.encoding import (
    ec_point,
    key_uri,
    raw_ecdsa_to_der,
    uri_pem,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import (
    CURVES,
    KeySpec,
    Pkcs11Error,
    TokenInfo,
    token_label,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.pin import load_pin, read_pin
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.session import (
    Library,
    open_library,
    sign_bytes,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.token_keys import public_key

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "unit-pin-1"
SO_PIN = "unit-so-pin-1"
TOKEN = "unit token"
ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    return tmp_path


@pytest.fixture
def token(softhsm: Path) -> TokenInfo:
    with open_library(SOFTHSM) as library:
        return library.initialise_token(TOKEN, SO_PIN, PIN)


def code_of(failure: pytest.ExceptionInfo[Pkcs11Error]) -> str:
    assert failure.value.remedy, "a failure without a remedy helps nobody"
    return failure.value.code


def test_token_is_initialised_once_with_a_label_padded_by_blanks(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library:
        again = library.initialise_token(TOKEN, SO_PIN, PIN)
        labels = [info.label for info in library.tokens() if info.initialized]
        raw = library.handle.getTokenInfo(again.slot).label
    assert again.serial == token.serial
    assert labels == [TOKEN]
    assert "\0" not in str(raw)


def test_token_without_user_pin_is_finished_not_erased(softhsm: Path) -> None:
    with open_library(SOFTHSM) as library:
        library.handle.initToken(library.tokens()[0].slot, SO_PIN, TOKEN.ljust(32))
    with open_library(SOFTHSM) as library:
        half = library.token(TOKEN)
        whole = library.initialise_token(TOKEN, SO_PIN, PIN)
        with library.session(TOKEN, PIN) as session:
            assert session.private_keys() == []
    assert not half.user_pin_initialized
    assert whole.user_pin_initialized
    assert whole.serial == half.serial


def test_second_token_with_the_same_label_is_ambiguous(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library:
        blank = next(info for info in library.tokens() if not info.initialized)
        library.handle.initToken(blank.slot, SO_PIN, TOKEN.ljust(32))
    with open_library(SOFTHSM) as library, pytest.raises(Pkcs11Error) as failure:
        library.token(TOKEN)
    assert code_of(failure) == "TOKEN_AMBIGUOUS"


@pytest.mark.parametrize(
    "label", [TOKEN + " ", TOKEN + " " * 30, TOKEN + "\0"], ids=["blank", "blanks", "NUL"]
)
def test_label_that_is_normalised_on_both_sides_is_found_once(softhsm: Path, label: str) -> None:
    with open_library(SOFTHSM) as library:
        first = library.initialise_token(label, SO_PIN, PIN)
        again = library.initialise_token(label, SO_PIN, PIN)
        with library.session(label, PIN) as session:
            assert session.token.label == TOKEN
        assert [info.label for info in library.tokens() if info.initialized] == [TOKEN]
    assert first.serial == again.serial == library_serial(TOKEN)
    assert key_uri(label, "k") == key_uri(TOKEN, "k")


def library_serial(label: str) -> str:
    with open_library(SOFTHSM) as library:
        return library.token(label).serial


@pytest.mark.parametrize("label", [" leading blank", "é" * 16, "签名-令牌", "x" * 32])
def test_label_with_blanks_before_it_or_of_many_bytes_is_found_once(
    softhsm: Path, label: str
) -> None:
    with open_library(SOFTHSM) as library:
        first = library.initialise_token(label, SO_PIN, PIN)
        assert library.initialise_token(label, SO_PIN, PIN).serial == first.serial
        assert [info.label for info in library.tokens() if info.initialized] == [label]


LABELS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


@given(LABELS, st.text(" \0"))
def test_a_label_is_the_same_with_and_without_its_padding(label: str, padding: str) -> None:
    assert token_label(label + padding) == label


@pytest.mark.parametrize(
    "label", ["", " ", "x" * 33, "é" * 17, "tab\t", "no-break\u00a0", "line\n", "\udc80"]
)
def test_token_label_that_does_not_fit_is_refused(softhsm: Path, label: str) -> None:
    with open_library(SOFTHSM) as library:
        with pytest.raises(Pkcs11Error) as failure:
            library.initialise_token(label, SO_PIN, PIN)
        assert code_of(failure) == "TOKEN_LABEL"
        assert not any(info.initialized for info in library.tokens())


@pytest.mark.parametrize(
    "spec",
    [KeySpec(), KeySpec(curve="P-384"), KeySpec("RSA", bits=3072)],
    ids=str,
)
def test_generated_key_signs_and_cannot_leave(token: TokenInfo, spec: KeySpec) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        key = session.generate("k", spec)
        found = session.key("k")
        signature = session.sign(found, b"data")
        with pytest.raises(PyKCS11.PyKCS11Error):
            session.handle.setAttributeValue(found.handle, [(PyKCS11.CKA_EXTRACTABLE, True)])
        secret = PyKCS11.CKA_VALUE if spec.kind == "EC" else PyKCS11.CKA_PRIVATE_EXPONENT
        assert not session.handle.getAttributeValue(found.handle, [secret])[0]
    assert key.weaknesses == []
    assert found.public.spec == str(spec)
    assert len(bytes.fromhex(found.key_id)) == 16
    public = public_key(found.public)
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            public.verify(signature, b"other", ec.ECDSA(hashes.SHA256()))
    else:
        public.verify(signature, b"data", padding.PKCS1v15(), hashes.SHA256())
        with pytest.raises(InvalidSignature):
            public.verify(signature, b"other", padding.PKCS1v15(), hashes.SHA256())


def test_sign_bytes_makes_a_signature_that_openssl_style_verification_accepts(
    token: TokenInfo,
) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        public = public_key(session.generate("release-signing", KeySpec()).public)
    signature = sign_bytes(SOFTHSM, TOKEN, "release-signing", PIN, b"release.json")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"release.json", ec.ECDSA(hashes.SHA256()))


def test_a_copy_of_the_disk_signs_elsewhere_with_a_softhsm_key(
    token: TokenInfo, softhsm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/explanation/tls.md says that a disk holds the keys: only a library forbids to copy."""
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        public = public_key(session.generate("release-signing", KeySpec()).public)
    (softhsm / "pin").write_text(PIN)
    (softhsm / "pin").chmod(0o400)
    stolen = tmp_path / "elsewhere"
    stolen.mkdir()
    shutil.copytree(softhsm / "tokens", stolen / "tokens")
    shutil.copy(softhsm / "pin", stolen / "pin")
    shutil.rmtree(softhsm / "tokens")
    (stolen / "softhsm2.conf").write_text(f"directories.tokendir = {stolen}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(stolen / "softhsm2.conf"))
    pin = read_pin(str(stolen / "pin"))
    signature = sign_bytes(SOFTHSM, TOKEN, "release-signing", pin, b"a forged release")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"a forged release", ec.ECDSA(hashes.SHA256()))


def test_key_that_may_decrypt_or_leave_is_refused(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        common = [(PyKCS11.CKA_TOKEN, True), (PyKCS11.CKA_LABEL, "weak"), (PyKCS11.CKA_ID, b"1")]
        session.handle.generateKeyPair(
            [*common, (PyKCS11.CKA_EC_PARAMS, CURVES["P-256"])],
            [
                *common,
                (PyKCS11.CKA_EXTRACTABLE, True),
                (PyKCS11.CKA_SENSITIVE, False),
                (PyKCS11.CKA_SIGN, True),
            ],
            mecha=PyKCS11.Mechanism(PyKCS11.CKM_EC_KEY_PAIR_GEN, None),
        )
        found = session.lookup_key("weak")
        with pytest.raises(Pkcs11Error) as failure:
            session.key("weak")
    assert code_of(failure) == "KEY_WEAK"
    assert found is not None
    assert {weakness.split()[0] for weakness in found.weaknesses} >= {
        "EXTRACTABLE",
        "NEVER_EXTRACTABLE",
        "SENSITIVE",
    }


def test_two_keys_with_one_label_are_ambiguous(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        session.generate("k", KeySpec())
        with pytest.raises(Pkcs11Error) as failure:
            session.generate("k", KeySpec())
    assert code_of(failure) == "KEY_AMBIGUOUS"


def test_deleted_private_key_is_noticed(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        key = session.generate("k", KeySpec())
        assert not session.has_orphan("k")
        session.handle.destroyObject(key.handle)
        assert session.has_orphan("k")
        with pytest.raises(Pkcs11Error) as failure:
            session.key("k")
        session.destroy("k")
        assert not session.has_orphan("k")
    assert code_of(failure) == "KEY_MISSING"


def test_private_key_without_its_public_half_is_told_apart(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library, library.session(TOKEN, PIN) as session:
        session.generate("k", KeySpec())
        for handle in session.handle.findObjects([(PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY)]):
            session.handle.destroyObject(handle)
        with pytest.raises(Pkcs11Error) as failure:
            session.key("k")
    assert code_of(failure) == "KEY_NO_PUBLIC"


def test_right_pin_works_after_one_wrong_pin(token: TokenInfo) -> None:
    with open_library(SOFTHSM) as library:
        with pytest.raises(Pkcs11Error) as first, library.session(TOKEN, "wrong-pin"):
            pytest.fail("logged in with a wrong PIN")
        assert library.token(TOKEN).pin_count_low
        assert library.token(TOKEN).unattended_refusal is not None
        with library.session(TOKEN, PIN) as session:
            assert session.private_keys() == []
        assert library.token(TOKEN).unattended_refusal is None
    assert code_of(first) == "LOGIN"


def test_failures_are_told_apart(token: TokenInfo, tmp_path: Path) -> None:
    def code(module_path: str, token_label: str, key: str) -> str:
        with pytest.raises(Pkcs11Error) as failure:
            sign_bytes(module_path, token_label, key, PIN, b"")
        return code_of(failure)

    no_library = tmp_path / "library.so"
    no_library.write_bytes(b"not ELF")
    assert code(str(tmp_path / "absent.so"), TOKEN, "k") == "MODULE_MISSING"
    assert code(str(no_library), TOKEN, "k") == "MODULE_LOAD"
    assert code(SOFTHSM, "other", "k") == "TOKEN_MISSING"
    assert code(SOFTHSM, TOKEN, "k") == "KEY_MISSING"


class FakeError(Exception):
    value = 0xA0


class FakeHandle:
    """A library with one token, which counts the logins it sees."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.logins = 0

    def getSlotList(self, token_present: bool) -> list[int]:
        return [7]

    def getTokenInfo(self, slot: int) -> Any:
        text = dict.fromkeys(("serialNumber", "manufacturerID", "model"), "x")
        return types.SimpleNamespace(label="hsm".ljust(32), flags=self.flags, **text)

    def openSession(self, slot: int, flags: int) -> Any:
        return self

    def login(self, pin: str) -> None:
        self.logins += 1
        raise FakeError

    def logout(self) -> None:
        pass

    def closeSession(self) -> None:
        pass


def fake_library(*flags: str) -> tuple[Library, FakeHandle]:
    api = types.SimpleNamespace(
        **{name: getattr(PyKCS11, name) for name in dir(PyKCS11) if name.startswith("CK")}
    )
    api.PyKCS11Error = FakeError
    ready = ("CKF_TOKEN_INITIALIZED", "CKF_USER_PIN_INITIALIZED")
    handle = FakeHandle(sum(int(getattr(PyKCS11, name)) for name in ready + flags))
    return Library(api, handle, "/vendor.so"), handle


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        ("CKF_USER_PIN_FINAL_TRY", "PIN_COUNT_LOW"),
        ("CKF_USER_PIN_LOCKED", "PIN_LOCKED"),
    ],
)
def test_no_pin_is_tried_on_a_token_near_its_lock(
    flag: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "/etc/a token/softhsm2.conf")
    library, handle = fake_library(flag, "CKF_USER_PIN_COUNT_LOW")
    with pytest.raises(Pkcs11Error) as failure, library.session("hsm", PIN):
        pytest.fail("logged in")
    assert code_of(failure) == code
    assert handle.logins == 0
    # the way out is a command that can be copied, of a program that role tls installs
    for part in (
        "'SOFTHSM2_CONF=/etc/a token/softhsm2.conf'",
        "pkcs11-tool --module /vendor.so",
        "--login",
    ):
        assert part in failure.value.remedy
    assert "opensc" in (ROOT / "roles" / "tls" / "vars" / "main.yml").read_text(encoding="utf-8")


def test_refused_pin_costs_one_try() -> None:
    library, handle = fake_library()
    with pytest.raises(Pkcs11Error) as failure, library.session("hsm", PIN):
        pytest.fail("logged in")
    assert code_of(failure) == "LOGIN"
    assert handle.logins == 1
    assert PIN not in str(failure.value)


@pytest.mark.parametrize(
    "content", ["", "1234\n", "1234\r\n", " 1234", "12\xff34", "12\x0034", "\x7f1234"]
)
def test_pin_file_that_would_burn_a_try_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pin"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o400)
    with pytest.raises(Pkcs11Error) as failure:
        load_pin(str(path))
    assert code_of(failure) == "PIN_FILE"
    assert "1234" not in str(failure.value)


def test_pin_file_open_to_everyone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_text("1234")
    path.chmod(0o604)
    with pytest.raises(Pkcs11Error, match="read by everyone"):
        load_pin(str(path))
    path.chmod(0o640)
    assert load_pin(str(path)) == "1234"


def test_decrypted_pin_is_checked_too() -> None:
    assert load_pin("/pin.cred", lambda path: "secret") == "secret"
    with pytest.raises(Pkcs11Error) as failure:
        load_pin("/pin.cred", lambda path: "secret\n")
    assert code_of(failure) == "PIN_FILE"


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_ecdsa_halves_survive_the_way_to_der(r: int, s: int) -> None:
    der = raw_ecdsa_to_der(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    assert decode_dss_signature(der) == (r, s)


@pytest.mark.parametrize("raw", [b"", b"123"])
def test_ecdsa_signature_of_odd_size_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="halves"):
        raw_ecdsa_to_der(raw)


@given(LABELS, st.text(min_size=1, max_size=200))
def test_wrapped_uri_can_be_unwrapped_and_has_no_stray_characters(
    token_label: str, key_label: str
) -> None:
    from urllib.parse import unquote

    try:
        (token_label + key_label).encode()
    except UnicodeEncodeError:
        return
    uri = key_uri(token_label, key_label)
    attributes = dict(part.split("=") for part in uri.removeprefix("pkcs11:").split(";"))
    assert unquote(attributes["token"]) == token_label
    assert unquote(attributes["object"]) == key_label
    assert attributes["type"] == "private"
    lines = uri_pem(uri).splitlines()
    assert (lines[0], lines[-1]) == (
        "-----BEGIN PKCS#11 PROVIDER URI-----",
        "-----END PKCS#11 PROVIDER URI-----",
    )
    assert all(len(line) <= 64 for line in lines[1:-1])
    der = base64.b64decode("".join(lines[1:-1]))
    assert der.endswith(uri.encode())
    assert b"PKCS#11 Provider URI v1.0" in der


@pytest.mark.parametrize(
    "arguments",
    [("DSA",), ("EC", "P-521"), ("RSA", "P-256", 2048)],
    ids=lambda value: "-".join(map(str, value)),
)
def test_weak_or_unknown_key_kinds_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"neither EC nor RSA|is none of|is not offered"):
        KeySpec(*arguments)


def test_point_of_wrong_size_is_refused_and_both_forms_are_read() -> None:
    point = b"\x04" + os.urandom(64)
    assert ec_point(point, "P-256") == point
    assert ec_point(b"\x04\x41" + point, "P-256") == point
    with pytest.raises(Pkcs11Error) as failure:
        ec_point(point[:-1], "P-256")
    assert code_of(failure) == "KEY_UNREADABLE"
