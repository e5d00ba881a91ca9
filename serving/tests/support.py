"""Helpers of the tests: nothing here stands in for the code under test."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import PyKCS11
import tomllib
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from serving_process import ServingProcess
from starlette.types import ASGIApp
from waiting import PATIENCE

from deepseek_serving.artifacts.build import describe
from deepseek_serving.artifacts.files import list_directory, seal_directory
from deepseek_serving.artifacts.hashing import hash_files, sha256_hex
from deepseek_serving.artifacts.manifest import canonical_json
from deepseek_serving.artifacts.names import MANIFEST, PIECES
from deepseek_serving.text.tokenizer import ChatTokenizer

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests" / "fixtures" / "checkpoint"
QUESTIONS = ROOT / "serving" / "training" / "questions.toml"
MODEL, VERSION = "tiny-onprem", "1.0.0"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
SIGN_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7031645\n"
P256 = bytes.fromhex("06082a8648ce3d030107")


def trained() -> list[tuple[str, str]]:
    """(question, answer) as the checkpoint was trained on them."""
    entries = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["entry"]
    return [(question, e["answer"]) for e in entries for question in e["questions"]]


def command(name: str) -> str:
    """A console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


@dataclass(frozen=True)
class Texts:
    """What precisions are calibrated with and judged on."""

    calibration: Path
    held_out: Path

    @classmethod
    def write(cls, folder: Path, graph: Path) -> Texts:
        tokenizer = ChatTokenizer(graph)
        documents = [
            tokenizer.text([{"role": "user", "content": question}]) + answer + "<|im_end|>\n"
            for question, answer in trained()
        ]
        texts = cls(folder / "calibration.jsonl", folder / "held-out.jsonl")
        for path, part in ((texts.calibration, documents[::2]), (texts.held_out, documents[1::2])):
            lines = (json.dumps({"text": document}) + "\n" for document in part)
            path.write_text("".join(lines), encoding="utf-8")
        return texts


@dataclass(frozen=True)
class Token:
    """A SoftHSM2 token with the key `release-signing`."""

    folder: Path
    public_key: Path
    session: Any
    private: Any
    label: str = "deepseek-release"
    key: str = "release-signing"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    @classmethod
    def create(cls, folder: Path) -> Token:
        (folder / "tokens").mkdir()
        configuration = folder / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {folder}/tokens\n", encoding="utf-8")
        pin = "pin; with ?odd=1&characters"
        (folder / "pin").write_text(pin, encoding="utf-8")
        os.environ["SOFTHSM2_CONF"] = str(configuration)
        library = PyKCS11.PyKCS11Lib()
        library.load(str(SOFTHSM))
        slot = library.getSlotList()[0]
        library.initToken(slot, "so-pin-1234", cls.label)
        slot = library.getSlotList()[0]
        session = library.openSession(slot, PyKCS11.CKF_RW_SESSION | PyKCS11.CKF_SERIAL_SESSION)
        session.login("so-pin-1234", PyKCS11.CKU_SO)
        session.initPin(pin)
        session.logout()
        session.login(pin)
        common = [(PyKCS11.CKA_LABEL, cls.key), (PyKCS11.CKA_ID, (1,)), (PyKCS11.CKA_TOKEN, True)]
        public, private = session.generateKeyPair(
            [*common, (PyKCS11.CKA_EC_PARAMS, P256), (PyKCS11.CKA_VERIFY, True)],
            [
                *common,
                (PyKCS11.CKA_SIGN, True),
                (PyKCS11.CKA_SENSITIVE, True),
                (PyKCS11.CKA_EXTRACTABLE, False),
                (PyKCS11.CKA_PRIVATE, True),
            ],
            mecha=PyKCS11.Mechanism(PyKCS11.CKM_EC_KEY_PAIR_GEN, None),
        )
        (point,) = session.getAttributeValue(public, [PyKCS11.CKA_EC_POINT])
        # an OCTET STRING of 65 bytes: two bytes of tag and length come first
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes(point)[2:])
        public_key = folder / "release.pub"
        public_key.write_bytes(
            key.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return cls(folder, public_key, session, private)

    def sign(self, data: bytes) -> bytes:
        """ECDSA-SHA256, DER."""
        raw = bytes(
            self.session.sign(
                self.private,
                hashlib.sha256(data).digest(),
                PyKCS11.Mechanism(PyKCS11.CKM_ECDSA, None),
            )
        )
        half = len(raw) // 2
        return utils.encode_dss_signature(
            int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        )

    def run_sign(self, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
        options = {
            "token": self.label,
            "key": self.key,
            "module": str(SOFTHSM),
            "pin-file": str(self.pin_file),
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return subprocess.run(
            [command("deepseek-sign"), str(folder), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def without_logits(graph: Path, folder: Path) -> Path:
    """A copy of a graph as it was exported before it had the output `logits`."""
    shutil.copytree(graph, folder)
    model = onnx.load(folder / "decoder.onnx", load_external_data=False)
    (logits,) = [output for output in model.graph.output if output.name == "logits"]
    model.graph.output.remove(logits)
    onnx.save(model, folder / "decoder.onnx")
    return folder


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes in a file that is read-only before and after."""
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def write_artifact(
    store: Path,
    source: Path,
    token: Token,
    kind: str = "graph",
    name: str = MODEL,
    parents: Sequence[str] = (),
) -> str:
    """Put a copy of `source` into the store as a signed artifact; return what it is found by.

    That is the digest of its manifest, or of the key that an engine has.
    """
    work = store / "work"
    shutil.copytree(source, work)
    hashed = hash_files(str(work), list_directory(str(work)))
    manifest, pieces = describe(
        kind, name, hashed, source="tests", spdx="GPL-3.0-or-later", parents=parents
    )
    (work / MANIFEST).write_bytes(manifest.to_bytes())
    (work / PIECES).write_bytes(pieces)
    result = token.run_sign(work)
    assert result.returncode == 0, result.stderr
    seal_directory(str(work))
    digest = sha256_hex((work / "key.json").read_bytes()) if kind == "engine" else manifest.digest
    folder = store / kind / name / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    work.rename(folder)
    return digest


def write_release(
    store: Path,
    graph: Path,
    token: Token,
    precision: str = "fp32",
    checkpoint: str = "0" * 64,
) -> str:
    digest = write_artifact(store, graph, token)
    release = {
        "schema": 1,
        "model": MODEL,
        "version": VERSION,
        "checkpoint": checkpoint,
        "graphs": {precision: digest},
    }
    data = canonical_json(release)
    path = store / "releases" / MODEL / f"{VERSION}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.with_name(path.name + ".sig").write_bytes(base64.b64encode(token.sign(data)) + b"\n")
    return digest


class Authority:
    """A certificate authority with keys in files, for the tests' connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._issuing = threading.Lock()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(SIGN_CERTIFICATES, True)
        self.ca = folder / "ca.pem"
        certificate = builder.sign(self._key, hashes.SHA256())
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        # Python 3.13 and later want the key identifiers of RFC 5280
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(identifier, False)
        )

    def revoke(self, *names: str) -> Path:
        """The revocation list that names these hosts."""
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - datetime.timedelta(minutes=1))
        builder = builder.next_update(now + datetime.timedelta(days=1))
        for name in names:
            certificate = x509.load_pem_x509_certificate(self.issue(name)[0].read_bytes())
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        path = self.folder / f"{'-'.join(names) or 'nobody'}.crl"
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a host called `name`; clients in threads get the same ones."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        with self._issuing:
            if not certificate.exists():
                self._write(name, certificate, key)
        return certificate, key

    def _write(self, name: str, certificate: Path, key: Path) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(subject, private.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
        signed = builder.sign(self._key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def client(self, name: str | None, *, trust: Path | None = None) -> ssl.SSLContext:
        """A client's context, with a certificate unless `name` is None."""
        context = ssl.create_default_context(cafile=str(trust or self.ca))
        if name is not None:
            context.load_cert_chain(*self.issue(name))
        return context


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_text(
    store: Path,
    token: Token,
    authority: Authority,
    *,
    engine: str = "threads = 2",
    more: str = "",
) -> str:
    certificate, key = authority.issue("inference-1")
    return f"""
[server]
host = "127.0.0.1"
port = {free_port()}
tls_certificate = "${{CREDENTIALS_DIRECTORY}}/{certificate.name}"
tls_key = "${{CREDENTIALS_DIRECTORY}}/{key.name}"
tls_client_ca = "{authority.ca}"
allowed_clients = ["gateway-1"]

[model]
store = "{store}"
name = "{MODEL}"
version = "{VERSION}"
public_key = "{token.public_key}"

[engine]
kind = "onnxruntime"
{engine}

{more}
"""


def upstream_settings(
    store: Path, token: Token, authority: Authority, url: str, more: str = ""
) -> str:
    text = settings_text(store, token, authority, engine="", more=more)
    text = text.replace('kind = "onnxruntime"', 'kind = "upstream"')
    text += f'\n[upstream]\nurl = "{url}"\nmodel = "behind"\npoll_seconds = 0.05\n'
    return text + "allow_without_key = true\n"


@dataclass
class Running:
    """A running deepseek-serve."""

    process: subprocess.Popen[bytes] | ServingProcess
    url: str
    log: Path


def _spawn(
    folder: Path, settings: str, notify: Path, as_command: bool = False
) -> tuple[subprocess.Popen[bytes] | ServingProcess, Path]:
    path = folder / "settings.toml"
    path.write_text(settings, encoding="utf-8")
    credentials = Path(tomllib.loads(settings)["server"]["tls_client_ca"]).parent
    environment = {
        **os.environ,
        "CREDENTIALS_DIRECTORY": str(credentials),
        "NOTIFY_SOCKET": str(notify),
    }
    log = folder / "log"
    log.touch()
    arguments = ["--settings", str(path)]
    if not as_command:
        return ServingProcess(arguments, environment, log), log
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command("deepseek-serve"), *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return process, log


@contextlib.contextmanager
def serve(folder: Path, settings: str, *, as_command: bool = False) -> Iterator[Running]:
    """deepseek-serve, ready as systemd would see it, ended at the end.

    As a command it has all that a new process has, and the limits of the one that starts it.
    """
    notify = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(notify))
        listener.settimeout(PATIENCE)
        process, log = _spawn(folder, settings, notify, as_command)
        try:
            try:
                message = listener.recv(256)
            except TimeoutError as error:
                raise AssertionError(log.read_text(encoding="utf-8")) from error
            assert message == b"READY=1"
            port = tomllib.loads(settings)["server"]["port"]
            yield Running(process, f"https://127.0.0.1:{port}", log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=PATIENCE)


@contextlib.contextmanager
def serve_app(app: ASGIApp, port: int | None = None) -> Iterator[str]:
    """An application on a port of its own, in this process and without TLS."""
    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not end"


def refused(folder: Path, settings: str) -> tuple[int, str]:
    """Exit status and output of a deepseek-serve that must not start."""
    process, log = _spawn(folder, settings, folder / "nobody")
    try:
        status = process.wait(timeout=PATIENCE)
    finally:
        process.send_signal(signal.SIGKILL)
    return status, log.read_text(encoding="utf-8")
