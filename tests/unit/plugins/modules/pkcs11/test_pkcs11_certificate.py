# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pkcs11_certificate, _csr and _crl modules on a real token; OpenSSL judges what they write."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from softhsm import TOKEN, Run, ca_arguments, host_request, openssl

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
