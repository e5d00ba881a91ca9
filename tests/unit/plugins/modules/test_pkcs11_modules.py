# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pkcs11_* modules on a real SoftHSM2 token; OpenSSL judges the certificates."""

from __future__ import annotations

import base64
import datetime
import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.certificates import (
    NOT_BEFORE_SKEW,
    check_clock,
    load_certificate,
    not_before,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.issuing import (
    Wanted,
    recreate_reason,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.session import (
    Library,
    load_api,
    open_library,
)

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN = "unit"
Run = Callable[..., dict[str, Any]]


def openssl(*arguments: str, expect: int = 0) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(
        f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    for name in ("pin", "so-pin"):
        (tmp_path / name).write_text(f"unit-{name}-1")
        (tmp_path / name).chmod(0o400)
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def module(name: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        imported = importlib.import_module(
            f"ansible_collections.onprem.deepseek.plugins.modules.pkcs11_{name}"
        )
        everything = {
            "module_path": SOFTHSM,
            "pin_file": str(home / "pin"),
            "_ansible_check_mode": check,
            **arguments,
        }
        with patch_module_args(everything), pytest.raises(SystemExit):
            imported.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "unit-pin-1" not in json.dumps(
            {key: value for key, value in result.items() if key != "invocation"}
        )
        return result

    return module


@pytest.fixture
def token(run: Run, home: Path) -> Run:
    run("token", label=TOKEN, so_pin_file=str(home / "so-pin"))
    return run


@pytest.fixture
def authority(token: Run, home: Path) -> dict[str, Any]:
    """A CA in the token, and the arguments that sign with it."""
    token("key", token=TOKEN, label="ca")
    result = token("certificate", **ca_arguments(home))
    assert result["changed"], result
    return {"token": TOKEN, "ca_certificate": str(home / "ca.pem")}


def ca_arguments(home: Path) -> dict[str, Any]:
    return {
        "path": str(home / "ca.pem"),
        "token": TOKEN,
        "provider": "selfsigned",
        "key": "ca",
        "profile": "ca",
        "common_name": "unit CA",
        "validity_days": 3650,
        "renew_before_days": 365,
    }


def host_request(home: Path, name: str) -> str:
    """What a host does: a key in a file and a signing request."""
    key = str(home / f"{name}.key")
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    return openssl("req", "-new", "-key", key, "-subj", "/CN=whatever I claim")


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


def test_ca_certificate_is_made_once(authority: dict[str, Any], token: Run, home: Path) -> None:
    text = openssl("x509", "-in", str(home / "ca.pem"), "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in text
    assert "Certificate Sign, CRL Sign" in text
    again = token("certificate", **ca_arguments(home))
    assert not again["changed"]
    assert again["recreate_reason"] == ""


@pytest.mark.parametrize(
    "kind", [{"type": "EC", "curve": "P-384"}, {"type": "RSA", "bits": 3072}], ids=str
)
def test_ca_of_another_kind_signs_too(token: Run, home: Path, kind: dict[str, Any]) -> None:
    token("key", token=TOKEN, label="ca", **kind)
    assert token("certificate", **ca_arguments(home))["changed"]
    openssl("verify", "-CAfile", str(home / "ca.pem"), str(home / "ca.pem"))


def test_host_certificate_from_request(authority: dict[str, Any], token: Run, home: Path) -> None:
    path = str(home / "host.pem")
    arguments = {
        **authority,
        "path": path,
        "csr_content": host_request(home, "host"),
        "profile": "peer",
        "common_name": "inference-1",
        "names": ["DNS:inference-1", "IP:10.0.30.21"],
        "mode": "0644",
    }
    checked = token("certificate", check=True, **arguments)
    assert checked["changed"]
    assert not Path(path).exists()
    first, second = token("certificate", **arguments), token("certificate", **arguments)
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["content"] == second["content"] == Path(path).read_text()
    assert first["certificate"]["subject"] == "CN=inference-1", (
        "the request's own claim must not count"
    )
    for purpose in ("sslserver", "sslclient"):
        openssl(
            "verify",
            "-CAfile",
            str(home / "ca.pem"),
            "-purpose",
            purpose,
            "-verify_hostname",
            "inference-1",
            path,
        )
    openssl("verify", "-CAfile", str(home / "ca.pem"), "-verify_ip", "10.0.30.21", path)
    openssl("verify", "-CAfile", str(home / "ca.pem"), "-verify_hostname", "other", path, expect=2)
    renamed = token("certificate", **{**arguments, "names": ["DNS:inference-2"]})
    assert renamed["changed"]
    assert "wanted DNS:inference-2" in renamed["recreate_reason"]


def test_server_certificate_through_a_request_from_the_token(
    authority: dict[str, Any], token: Run, home: Path
) -> None:
    token("key", token=TOKEN, label="gateway")
    request = token("csr", token=TOKEN, key="gateway", common_name="svc", names=["DNS:svc"])
    assert not request["changed"]
    assert "PKCS#11 PROVIDER URI" in request["uri_pem"]
    arguments = {
        **authority,
        "path": str(home / "g.pem"),
        "csr_content": request["csr"],
        "common_name": "svc",
        "names": ["DNS:svc"],
    }
    assert token("certificate", **arguments)["changed"]
    assert token("info", token=TOKEN, key="gateway", prove=True, certificate=str(home / "g.pem"))[
        "proof"
    ]["certificate_matches"]
    openssl(
        "verify",
        "-CAfile",
        str(home / "ca.pem"),
        "-purpose",
        "sslclient",
        str(home / "g.pem"),
        expect=2,
    )
    by_label = {key: value for key, value in arguments.items() if key != "csr_content"} | {
        "key": "gateway"
    }
    assert not token("certificate", **by_label)["changed"], "request and label name the same key"


def test_broken_requests_and_files(authority: dict[str, Any], token: Run, home: Path) -> None:
    request = host_request(home, "host")
    arguments = {
        **authority,
        "path": str(home / "host.pem"),
        "common_name": "h",
        "csr_content": request,
    }
    body = request.splitlines()
    forged = "\n".join([body[0], body[1], *reversed(body[2:-1]), body[-1]])
    assert token("certificate", **{**arguments, "csr_content": forged})["code"] == "CSR"
    assert token("certificate", **{**arguments, "names": ["h"]})["code"] == "NAME"
    assert token("certificate", **{**arguments, "validity_days": 30})["code"] == "VALIDITY"
    assert token("certificate", **{**arguments, "validity_days": 4000})["code"] == "CA_ENDS"
    assert (
        token("certificate", **{**arguments, "ca_certificate": str(home / "no.pem")})["code"]
        == "CA_MISSING"
    )
    assert not (home / "host.pem").exists()
    (home / "host.pem").write_text("rubbish")
    assert "holds no certificate" in token("certificate", **arguments)["recreate_reason"]


def test_certificate_policy(authority: dict[str, Any], token: Run, home: Path) -> None:
    arguments = {
        **authority,
        "path": str(home / "host.pem"),
        "common_name": "h",
        "csr_content": host_request(home, "h"),
    }
    first = token("certificate", regenerate="fail", **arguments)
    assert first["changed"], "a missing certificate is made under every policy"
    other = {**arguments, "common_name": "i"}
    assert token("certificate", regenerate="fail", **other)["code"] == "CERTIFICATE_DIFFERS"
    kept = token("certificate", regenerate="never", **other)
    assert not kept["changed"]
    assert kept["warnings"]
    assert kept["content"] == first["content"]
    assert token("certificate", regenerate="always", **arguments)["changed"]


def test_user_that_does_not_exist(run: Run) -> None:
    assert run("info", user="nobody-by-this-name", pin_file=None)["code"] == "USER"


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (-1, "valid only from"),
        (0, None),
        (59, None),
        (60, "is renewed 30 days before"),
        (100, "in 0 days"),
    ],
)
def test_renewal_decision(
    authority: dict[str, Any], token: Run, home: Path, days: int, reason: str | None
) -> None:
    token("key", token=TOKEN, label="g")
    token(
        "certificate", **{**authority, "path": str(home / "g.pem"), "key": "g", "common_name": "g"}
    )
    certificate = load_certificate((home / "g.pem").read_text(), "g.pem")
    issuer = load_certificate((home / "ca.pem").read_text(), "ca.pem")
    wanted = Wanted("g", (), "server", 90, 30)
    made = not_before(certificate) + NOT_BEFORE_SKEW
    now = made + datetime.timedelta(days=days)
    found = recreate_reason(certificate, wanted, certificate.public_key(), issuer, now)
    assert found is None if reason is None else found is not None and reason in found


def test_certificate_of_another_ca_is_replaced(
    authority: dict[str, Any], token: Run, home: Path
) -> None:
    arguments = {
        **authority,
        "path": str(home / "host.pem"),
        "common_name": "h",
        "csr_content": host_request(home, "h"),
    }
    token("certificate", **arguments)
    token("key", token=TOKEN, label="ca", regenerate="always")
    mismatch = token("certificate", **arguments)
    assert not mismatch["changed"], "the CA certificate still is the one that signed it"
    token("certificate", **ca_arguments(home))
    replaced = token("certificate", **arguments)
    assert replaced["recreate_reason"] == "it was not signed by the present CA"
    openssl("verify", "-CAfile", str(home / "ca.pem"), str(home / "host.pem"))


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


def test_certificates_of_a_name_are_revoked_and_replaced(
    token: Run, home: Path, authority: dict[str, Any]
) -> None:
    archive = home / "archive"
    archive.mkdir()
    issued = {
        **authority,
        "path": str(home / "host.pem"),
        "csr_content": host_request(home, "host"),
        "common_name": "host-1",
        "archive": str(archive),
        "crl": str(home / "crl.pem"),
    }
    first = token("certificate", **issued)["certificate"]["serial"]
    assert [path.stem for path in archive.iterdir()] == [first]
    crl = {**authority, "path": str(home / "crl.pem"), "archive": str(archive)}
    assert token("crl", check=True, **crl)["changed"]
    empty, same = token("crl", **crl), token("crl", **crl)
    assert (empty["changed"], empty["number"], empty["revoked"]) == (True, 1, [])
    assert not same["changed"]
    assert not token("certificate", **issued)["changed"]
    verify = ("verify", "-crl_check", "-CAfile", str(home / "ca.pem"), "-CRLfile")
    openssl(*verify, str(home / "crl.pem"), str(home / "host.pem"))
    assert token("crl", revoke_names=["host-2"], **crl)["changed"] is False

    revoked = token("crl", revoke_names=["host-1"], **crl)
    assert (revoked["number"], revoked["revoked"]) == (2, [first])
    openssl(*verify, str(home / "crl.pem"), str(home / "host.pem"), expect=2)
    again = token("certificate", **issued)
    assert again["recreate_reason"] == "it is revoked"
    openssl(*verify, str(home / "crl.pem"), str(home / "host.pem"))
    # what was revoked stays so, whatever is asked for later
    later = token("crl", revoke=["aa:bb"], **crl)
    assert later["revoked"] == sorted(["aabb", first], key=lambda serial: int(serial, 16))
    assert token("crl", renew_before_days=30, **crl)["recreate_reason"].startswith("it ends ")
    assert token("crl", revoke=["nothing"], **crl)["code"] == "SERIAL"


def test_a_root_signs_a_ca_that_signs_hosts(token: Run, home: Path) -> None:
    for label in ("root", "issuing"):
        token("key", token=TOKEN, label=label)
    root = {**ca_arguments(home), "key": "root", "profile": "root"}
    assert token("certificate", **root)["changed"]
    assert not token("certificate", **root)["changed"]
    assert (
        "usages" in token("certificate", check=True, **{**root, "profile": "ca"})["recreate_reason"]
    )
    issuing = {
        "token": TOKEN,
        "path": str(home / "issuing.pem"),
        "ca_certificate": str(home / "ca.pem"),
        "key": "issuing",
        "common_name": "unit issuing CA",
        "profile": "ca",
    }
    assert token("certificate", **issuing)["changed"]
    host = {
        "token": TOKEN,
        "path": str(home / "host.pem"),
        "ca_certificate": str(home / "issuing.pem"),
        "csr_content": host_request(home, "host"),
        "common_name": "host-1",
        "validity_days": 7,
        "renew_before_days": 3,
    }
    assert token("certificate", **host)["changed"]
    chain = ("-CAfile", str(home / "ca.pem"), "-untrusted", str(home / "issuing.pem"))
    openssl("verify", "-purpose", "sslserver", *chain, str(home / "host.pem"))

    # only what the CA itself has made can be on its list
    archive = home / "archive"
    archive.mkdir()
    for name in ("host", "issuing"):
        (archive / f"{name}.pem").write_text((home / f"{name}.pem").read_text())
    names = {"archive": str(archive), "revoke_names": ["host-1", "unit issuing CA"]}
    crl = {"token": TOKEN, "path": str(home / "list.pem"), **names}
    listed = token("crl", ca_certificate=str(home / "issuing.pem"), **crl)["revoked"]
    assert listed == [token("info", certificate=str(home / "host.pem"))["certificate"]["serial"]]


def test_the_clock_is_told_from_a_certificate_that_has_ended(
    token: Run, home: Path, authority: dict[str, Any]
) -> None:
    certificate = load_certificate((home / "ca.pem").read_text(), "ca.pem")
    now = datetime.datetime.now(datetime.timezone.utc)
    check_clock(certificate, now)
    for when, code in (
        (now - datetime.timedelta(days=2), "CLOCK"),
        (now + datetime.timedelta(days=4000), "CERT_ENDED"),
    ):
        with pytest.raises(Pkcs11Error) as caught:
            check_clock(certificate, when)
        assert caught.value.code == code


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
