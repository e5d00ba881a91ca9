# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pkcs11_token, _key, _info and _signature modules on a real SoftHSM2 token."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from softhsm import SOFTHSM, TOKEN, Run, ca_arguments, host_request, openssl

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.session import (
    Library,
    load_api,
    open_library,
)


def test_token_check_mode_then_once(run: Run, home: Path) -> None:
    arguments = {"label": TOKEN, "so_pin_file": str(home / "so-pin")}
    assert run("token", check=True, **arguments)["changed"]
    assert not any((home / "tokens").iterdir())
    first, second = run("token", **arguments), run("token", **arguments)
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["token"]["serial"] == second["token"]["serial"]
    assert second["token"]["label"] == TOKEN


def test_missing_pins_are_generated_only_for_a_new_token(run: Run, home: Path) -> None:
    pin, so_pin = home / "new-pin", home / "new-so-pin"
    arguments = {
        "label": TOKEN,
        "pin_file": str(pin),
        "so_pin_file": str(so_pin),
        "generate_pins": True,
    }
    assert run("token", check=True, **arguments)["changed"]
    assert not pin.exists()
    assert run("token", **arguments)["changed"]
    assert not run("token", **arguments)["changed"]
    assert len(pin.read_text()) == 24
    assert pin.read_text() != so_pin.read_text()
    assert {path.stat().st_mode & 0o777 for path in (pin, so_pin)} == {0o400}
    pin.unlink()
    lost = run("token", **arguments)
    assert lost["code"] == "PIN_FILE"
    assert not pin.exists(), "a new PIN for an old token would only burn a try"


def test_token_without_so_pin_says_so(run: Run) -> None:
    result = run("token", label=TOKEN)
    assert result["failed"]
    assert result["code"] == "PIN_FILE"
    assert "so_pin_file" in result["msg"]


def test_token_with_another_pin_fails_and_works_with_the_right_one(token: Run, home: Path) -> None:
    (home / "other").write_text("wrong-pin")
    (home / "other").chmod(0o400)
    wrong, right = (
        token("token", label=TOKEN, pin_file=str(home / name)) for name in ("other", "pin")
    )
    assert wrong["code"] == "LOGIN"
    assert not right.get("failed")
    assert not right["changed"]


def test_key_check_mode_then_once(token: Run) -> None:
    arguments = {"token": TOKEN, "label": "k"}
    checked, first, second = (
        token("key", check=check, **arguments) for check in (True, False, False)
    )
    assert (checked["changed"], first["changed"], second["changed"]) == (True, True, False)
    assert checked["key"] == {}
    assert checked["recreate_reason"] == "there is no key with this label"
    assert first["key"] == second["key"]
    assert second["key"]["weaknesses"] == []
    assert second["key"]["attributes"]["never_extractable"] is True
    assert second["uri"] == "pkcs11:token=unit;object=k;type=private"


def test_key_of_another_kind_follows_the_policy(token: Run) -> None:
    before = token("key", token=TOKEN, label="k")["key"]
    wanted = {"token": TOKEN, "label": "k", "curve": "P-384"}
    refused = token("key", **wanted)
    assert refused["failed"]
    assert refused["code"] == "KEY_DIFFERS"
    assert "EC P-256, wanted EC P-384" in refused["msg"]
    kept = token("key", regenerate="never", **wanted)
    assert not kept["changed"]
    assert kept["key"] == before
    assert kept["warnings"]
    checked = token("key", check=True, regenerate="if_changed", **wanted)
    assert checked["changed"]
    assert checked["key"] == before
    replaced = token("key", regenerate="if_changed", **wanted)
    assert replaced["changed"]
    assert replaced["key"]["kind"] == "EC P-384"
    assert token("key", **wanted)["key"] == replaced["key"]
    assert token("key", regenerate="always", **wanted)["recreate_reason"] == "regenerate is always"


def test_deleted_key_is_detected_and_replaced_only_on_request(
    authority: dict[str, Any], token: Run, home: Path
) -> None:
    delete_private_key(home, "ca")
    proof = token("info", token=TOKEN, key="ca", prove=True, certificate=str(home / "ca.pem"))
    assert proof["failed"]
    assert proof["code"] == "KEY_MISSING"
    refused = token("key", token=TOKEN, label="ca")
    assert refused["failed"]
    assert "only the public half" in refused["msg"]
    assert token("key", token=TOKEN, label="ca", regenerate="if_changed")["changed"]
    mismatch = token("info", token=TOKEN, key="ca", prove=True, certificate=str(home / "ca.pem"))
    assert mismatch["code"] == "CERT_KEY_MISMATCH"
    renewed = token("certificate", **ca_arguments(home))
    assert renewed["changed"]
    assert renewed["recreate_reason"] == "the certificate is for another key"
    assert token("info", token=TOKEN, key="ca", prove=True, certificate=str(home / "ca.pem"))[
        "proof"
    ]["signed"]


def delete_private_key(home: Path, label: str) -> None:
    with (
        open_library(SOFTHSM) as library,
        library.session(TOKEN, (home / "pin").read_text()) as session,
    ):
        session.handle.destroyObject(session.key(label).handle)


def test_info_lists_and_proves(authority: dict[str, Any], token: Run, home: Path) -> None:
    result = token(
        "info", check=True, token=TOKEN, key="ca", prove=True, certificate=str(home / "ca.pem")
    )
    assert result["proof"] == {"signed": True, "certificate_matches": True}
    assert [key["label"] for key in result["private_keys"]] == ["ca"]
    assert result["certificate"]["subject"] == "CN=unit CA"
    assert not result["changed"]
    without = token("info", pin_file=None)
    assert without["private_keys"] == []
    assert TOKEN in [found["label"] for found in without["tokens"]]
    assert token("info", token=TOKEN, key="absent")["code"] == "KEY_MISSING"
    assert "prove" in token("info", token=TOKEN, prove=True)["msg"]


def test_user_that_does_not_exist(run: Run) -> None:
    assert run("info", user="nobody-by-this-name", pin_file=None)["code"] == "USER"


def test_a_key_is_destroyed_once(token: Run) -> None:
    arguments = {"token": TOKEN, "label": "old", "state": "absent"}
    token("key", token=TOKEN, label="old")
    assert token("key", check=True, **arguments)["changed"]
    assert len(token("info", token=TOKEN)["private_keys"]) == 1
    first, second = token("key", **arguments), token("key", **arguments)
    assert (first["changed"], second["changed"]) == (True, False)
    assert token("info", token=TOKEN)["private_keys"] == []


def test_the_key_that_a_certificate_file_names_is_proven(
    token: Run, home: Path, authority: dict[str, Any]
) -> None:
    uri = token("key", token=TOKEN, label="ca")["uri_pem"]
    (home / "named.pem").write_text((home / "ca.pem").read_text() + uri)
    named = {"certificate": str(home / "named.pem")}
    assert token("info", **named)["key_label"] == "ca"
    proof = token("info", token=TOKEN, prove=True, **named)
    assert proof["proof"] == {"signed": True, "certificate_matches": True}
    unnamed = {"token": TOKEN, "prove": True, "certificate": str(home / "ca.pem")}
    token("key", token=TOKEN, label="another")
    assert token("info", **unnamed)["key_label"] == "ca"
    token("key", token=TOKEN, label="ca", state="absent")
    assert token("info", **unnamed)["code"] == "KEY_MISSING"
    csr = {"csr_content": host_request(home, "host"), "common_name": "h"}
    keyless = token("certificate", path=str(home / "host.pem"), **authority, **csr)
    assert keyless["code"] == "KEY_MISSING"
    assert "unit CA" in keyless["msg"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("CKR_DEVICE_MEMORY", "TOKEN_FULL"),
        ("CKR_DEVICE_REMOVED", "TOKEN_MISSING"),
        ("CKR_SESSION_COUNT", "TOKEN_BUSY"),
        ("CKR_GENERAL_ERROR", "TOKEN_ERROR"),
    ],
)
def test_what_a_token_says_is_told_apart(home: Path, name: str, code: str) -> None:
    api = load_api()
    library = Library(api, None, SOFTHSM)
    failure = library.failure(api.PyKCS11Error(getattr(api, name)), "Generating a key")
    assert failure.code == code
    assert failure.remedy


def test_a_document_is_signed_and_nothing_else(token: Run, home: Path) -> None:
    token("key", token=TOKEN, label="release-signing")
    content = '{"zones": "分区"}\n'
    signed = token("signature", token=TOKEN, key="release-signing", content=content)
    assert not signed["changed"]
    (home / "document").write_text(content)
    (home / "public").write_text(signed["public_key"])
    (home / "signature").write_bytes(base64.b64decode(signed["signature"]))
    files = ["-verify", str(home / "public"), "-signature", str(home / "signature")]
    openssl("dgst", "-sha256", *files, str(home / "document"))
    (home / "document").write_text(content.replace("zones", "zone"))
    openssl("dgst", "-sha256", *files, str(home / "document"), expect=1)
    for other in ("DSSEv1 28 application/vnd.in-toto+json 2 {}", "[]", "{", ' {"a": 1}', ""):
        refused = token("signature", token=TOKEN, key="release-signing", content=other)
        assert refused["code"] == "CONTENT", other
