# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish on one host, pull on others: real nginx and aria2 on the loopback interface, real TLS."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import ipaddress
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ansible_collections.onprem.deepseek.plugins.module_utils import artefact, publish, replica
from ansible_collections.onprem.deepseek.plugins.module_utils.artefact import ArtefactError
from ansible_collections.onprem.deepseek.plugins.module_utils.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.publish import (
    Plan,
    PublishError,
    Tools,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.replica import (
    Completed,
    Credentials,
    ReplicaError,
    Request,
)

SMALL = 200_000
PIECE = artefact.PIECE_SIZE
# Two pieces, the second a small one.
LARGE = PIECE + 3 * 1024 * 1024


class Signer:
    """A signing key in memory, not in a token, and an exporter that writes what it is told."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.versions = {"onnx": "1.19.0"}
        self.exports = 0
        self.graph = b"graph"
        self.prepared: list[str] = []
        self.gate = False

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def sign_folder(self, folder: str) -> None:
        digests = {
            path: artefact.hash_file(os.path.join(folder, path)).sha256
            for path in artefact.list_folder(folder)
        }
        resources = [
            {"name": path, "algorithm": "sha256", "digest": digest}
            for path, digest in digests.items()
        ]
        payload = json.dumps({"predicate": {"resources": resources}}).encode()
        kind = b"application/vnd.in-toto+json"
        signature = self.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind.decode(),
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        }
        Path(folder, "model.sig").write_text(json.dumps({"dsseEnvelope": envelope}))

    def export(self, checkpoint: str, out: str) -> None:
        self.exports += 1
        assert Path(checkpoint, "model.safetensors").is_file()
        os.mkdir(out)
        Path(out, "decoder.onnx").write_bytes(self.graph)
        Path(out, "empty").write_bytes(b"")
        Path(out, "export.json").write_text(
            json.dumps({"parameters": {"opset": 24}, "tools": self.versions})
        )

    def tools(self) -> Tools:
        return Tools(
            lambda _command: dict(self.versions),
            self.export,
            self.prepare,
            self.sign_folder,
            self.sign,
        )

    def prepare(self, source: str, out: str, precision: Precision) -> None:
        """Write what deepseek-prepare does, or refuse as its gate does."""
        self.prepared.append(precision.name)
        replica.read_manifest(source, Path(source).name)
        if self.gate:
            raise PublishError(f"deepseek-prepare: accuracy gate failed: {precision.name}")
        os.mkdir(out)
        Path(out, "decoder.onnx").write_bytes(self.graph + precision.name.encode())
        read = {
            what: {"sha256": artefact.sha256_file(path)} for what, path in precision.texts.items()
        }
        record = {
            "parameters": {"opset": 24},
            "preparation": {"calibration": read.get("calibration")},
        }
        Path(out, "export.json").write_text(json.dumps(record))
        Path(out, "evaluation.json").write_text(
            json.dumps({"held_out": read["held_out"], "top1_agreement": 0.97})
        )


def write_checkpoint(path: Path, size: int = 1000) -> Path:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})
    )
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    data = random.Random(1).randbytes(size)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def plan(tmp_path: Path, signer: Signer) -> Plan:
    checkpoint = write_checkpoint(tmp_path / "import")
    return Plan(str(tmp_path / "origin"), "tiny", "1.0.0", str(checkpoint), signer.pem)


def tree(path: str | Path) -> dict[str, str]:
    """Every file below a folder but lock files, with its hash."""
    return {
        str(item.relative_to(path)): hashlib.sha256(item.read_bytes()).hexdigest()
        for item in Path(path).rglob("*")
        if item.is_file() and item.name != ".lock"
    }


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes as a bad disk does: size, mode and time of the file say nothing."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# --- publish --------------------------------------------------------------------------------------


def test_publish_writes_signed_artefacts_and_a_signed_release(plan: Plan, signer: Signer) -> None:
    done = publish.publish(plan, signer.tools())
    assert done.changed
    assert done.release is not None
    assert "no graph of checkpoint" in done.rebuild_reason
    found = replica.inspect_replica(Request(plan.store, "tiny", "1.0.0", signer.pem))
    assert found.complete
    assert found.digest == publish.summary(plan, done)["sha256"]
    graph = replica.read_manifest(found.artefacts[1].path, found.artefacts[1].digest)
    assert graph.parents == (done.release.checkpoint,)
    assert graph.tools == signer.versions
    assert graph.parameters == {
        "opset": 24,
        "arguments": {"max_len": None, "slots": None, "precision": "fp32"},
    }


def test_the_same_bytes_again_change_nothing(plan: Plan, signer: Signer) -> None:
    publish.publish(plan, signer.tools())
    before = tree(plan.store)
    again = publish.publish(plan, signer.tools())
    assert (again.changed, again.actions, again.rebuild_reason, signer.exports) == (
        False,
        [],
        "",
        1,
    )
    assert tree(plan.store) == before


def test_check_mode_says_what_would_be_done_and_does_nothing(plan: Plan, signer: Signer) -> None:
    done = publish.publish(plan, signer.tools(), check_mode=True)
    assert done.changed
    assert [action.split()[0] for action in done.actions] == ["write", "export", "write"]
    assert not os.path.exists(plan.store)
    publish.publish(plan, signer.tools())
    assert not publish.publish(plan, signer.tools(), check_mode=True).changed


@pytest.mark.parametrize(
    "change", [{"source": "elsewhere"}, {"licence": "MIT"}, {"max_len": 64}, {"slots": 2}]
)
def test_the_same_version_made_differently_is_refused(
    plan: Plan, signer: Signer, change: dict[str, object]
) -> None:
    publish.publish(plan, signer.tools())
    before = tree(plan.store)
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=next(iter(change)) + ".*new version"):
            publish.publish(dataclasses.replace(plan, **change), signer.tools(), check_mode)  # type: ignore[arg-type]
    assert tree(plan.store) == before


def test_the_same_version_with_other_bytes_is_refused_by_name(plan: Plan, signer: Signer) -> None:
    publish.publish(plan, signer.tools())
    overwrite(Path(plan.checkpoint, "model.safetensors"), 500, b"other")
    with pytest.raises(PublishError, match=r"changed: model\.safetensors.*new version"):
        publish.publish(plan, signer.tools())
    done = publish.publish(dataclasses.replace(plan, version="1.1.0"), signer.tools())
    assert done.changed


def test_a_new_version_of_the_same_checkpoint_uses_what_is_there(
    plan: Plan, signer: Signer
) -> None:
    publish.publish(plan, signer.tools())
    done = publish.publish(dataclasses.replace(plan, version="1.0.1"), signer.tools())
    assert done.actions == ["wrote release tiny/1.0.1"]
    assert signer.exports == 1


def test_new_tools_keep_a_published_version_and_rebuild_a_new_one(
    plan: Plan, signer: Signer
) -> None:
    publish.publish(plan, signer.tools())
    signer.versions = {"onnx": "1.20.0"}
    kept = publish.publish(plan, signer.tools())
    assert not kept.changed
    assert "onnx was 1.19.0, is 1.20.0" in kept.warnings[0]
    done = publish.publish(dataclasses.replace(plan, version="1.0.1"), signer.tools())
    assert done.rebuild_reason == "onnx was 1.19.0, is 1.20.0"
    assert signer.exports == 2


def test_an_interrupted_publish_publishes_nothing_and_is_resumed(
    plan: Plan, signer: Signer
) -> None:
    def interrupted(_folder: str, _out: str) -> None:
        raise PublishError("no more power")

    with pytest.raises(PublishError, match="power"):
        publish.publish(plan, dataclasses.replace(signer.tools(), export=interrupted))
    assert replica.list_releases(plan.store) == []
    leftover = Path(plan.store, "graph", "tiny", ".publish-old")
    leftover.mkdir()
    done = publish.publish(plan, signer.tools())
    assert [action.split()[0] for action in done.actions] == ["exported", "wrote"]
    assert not leftover.exists()


def test_a_checkpoint_with_problems_is_refused_before_anything_is_written(
    plan: Plan, signer: Signer
) -> None:
    Path(plan.checkpoint, "tokenizer.json").unlink()
    with pytest.raises(PublishError, match=r"tokenizer\.json: the file is missing"):
        publish.publish(plan, signer.tools())
    assert not os.path.exists(plan.store)


def test_a_changed_release_file_is_never_signed_again(plan: Plan, signer: Signer) -> None:
    publish.publish(plan, signer.tools())
    path = Path(artefact.release_path(plan.store, "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    with pytest.raises(PublishError, match="not what was signed"):
        publish.publish(plan, signer.tools())


@pytest.mark.parametrize("name", ["decoder.onnx", "manifest.json", "model.sig"])
def test_a_damaged_graph_is_exported_again_from_the_verified_checkpoint(
    plan: Plan, signer: Signer, name: str
) -> None:
    done = publish.publish(plan, signer.tools())
    assert done.release is not None
    before = tree(plan.store)
    folder = Path(plan.store, "graph", "tiny", done.release.graphs["fp32"])
    overwrite(folder / name, 0, b"#")
    repaired = publish.publish(plan, signer.tools())
    assert repaired.rebuild_reason
    assert {k: v for k, v in tree(plan.store).items() if "model.sig" not in k} == {
        k: v for k, v in before.items() if "model.sig" not in k
    }
    overwrite(folder / "decoder.onnx", 0, b"#")
    signer.graph = b"other tools give other bytes"
    with pytest.raises(PublishError, match="model_replica"):
        publish.publish(plan, signer.tools())


def test_a_damaged_checkpoint_copy_is_written_again(plan: Plan, signer: Signer) -> None:
    done = publish.publish(plan, signer.tools())
    assert done.release is not None
    overwrite(
        Path(plan.store, "checkpoint", "tiny", done.release.checkpoint, "model.safetensors"),
        300,
        b"#",
    )
    assert publish.publish(plan, signer.tools()).actions == [
        f"wrote checkpoint {done.release.checkpoint[:12]}"
    ]
    assert replica.inspect_replica(Request(plan.store, "tiny", "1.0.0", signer.pem)).complete


def test_a_signing_key_that_is_not_the_sites_is_refused(plan: Plan, signer: Signer) -> None:
    with pytest.raises(PublishError, match="release public key belongs to the signing key"):
        publish.publish(plan, Signer().tools())
    assert replica.list_releases(plan.store) == []


def test_publishing_needs_room(plan: Plan, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(PublishError, match="1000 bytes free"):
        publish.publish(plan, signer.tools())


def test_the_source_is_not_touched(plan: Plan, signer: Signer) -> None:
    weights = Path(plan.checkpoint, "model.safetensors")
    weights.chmod(0o640)
    publish.publish(plan, signer.tools())
    assert weights.stat().st_mode & 0o777 == 0o640
    assert weights.stat().st_nlink == 1


# --- a site on the loopback interface -------------------------------------------------------------


@dataclasses.dataclass
class Site:
    """Three sources, a place to pull to, and the means to break things."""

    root: Path
    signer: Signer
    release: artefact.Release
    ports: list[int]
    processes: dict[int, subprocess.Popen[bytes]]

    def source(self, number: int) -> Path:
        return self.root / f"source{number}"

    def request(self, **change: object) -> Request:
        urls = [f"https://127.0.0.1:{port}" for port in self.ports]
        request = Request(str(self.root / "here"), "tiny", "1.0.0", self.signer.pem, urls)
        return dataclasses.replace(request, **change)  # type: ignore[arg-type]

    def credentials(self, name: str = "host") -> Credentials:
        return Credentials(
            *(str(self.root / file) for file in ("ca.pem", f"{name}.pem", f"{name}.key"))
        )

    def pull(
        self, name: str = "host", check_mode: bool = False, **change: object
    ) -> replica.Replica:
        request, credentials = self.request(**change), self.credentials(name)
        found = replica.inspect_replica(request)
        fetch = replica.https_fetcher(credentials, 2)
        return replica.ensure_replica(request, fetch, run, credentials, found, check_mode)

    def weights(self, root: Path) -> Path:
        return root / "checkpoint" / "tiny" / self.release.checkpoint / "model.safetensors"

    def stop(self, number: int) -> None:
        process = self.processes.pop(number)
        process.terminate()
        process.wait(timeout=10)


def run(command: Sequence[str]) -> Completed:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, timeout=120)
    return Completed(done.returncode, done.stdout, done.stderr)


def ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def issue(
    root: Path, name: str, ca: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = ca or (subject, key)
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if ca is None:  # Python 3.13 and later refuse a CA that does not say what its key is for
        builder = builder.add_extension(ca_usage(), critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(usage, critical=False).add_extension(names, critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (root / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (root / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return subject, key


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


NGINX = """
daemon off;
worker_processes 1;
pid {root}/nginx{number}.pid;
error_log {root}/error{number}.log;
events {{ worker_connections 64; }}
http {{
  access_log {root}/access{number}.log;
  client_body_temp_path {root}/tmp{number};
  proxy_temp_path {root}/tmp{number};
  fastcgi_temp_path {root}/tmp{number};
  uwsgi_temp_path {root}/tmp{number};
  scgi_temp_path {root}/tmp{number};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {root}/host.pem;
    ssl_certificate_key {root}/host.key;
    ssl_client_certificate {root}/ca.pem;
    ssl_verify_client on;
    root {root}/source{number};
  }}
}}
"""


def start_nginx(root: Path, number: int, port: int) -> subprocess.Popen[bytes]:
    config = root / f"nginx{number}.conf"
    config.write_text(
        "user root;\n" * (os.geteuid() == 0) + NGINX.format(root=root, number=number, port=port)
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(root / f"error{number}.log")])
    for _attempt in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process
        assert process.poll() is None, (root / f"error{number}.log").read_text()
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


@pytest.fixture
def site(
    tmp_path: Path, signer: Signer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A site with a small checkpoint, or one of the size that the test asks for."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    for program in ("nginx", "aria2c"):
        assert shutil.which(program), (
            f"{program} is needed for these tests: install nginx-light and aria2"
        )
    checkpoint = write_checkpoint(tmp_path / "import", getattr(request, "param", SMALL))
    done = publish.publish(
        Plan(str(tmp_path / "source0"), "tiny", "1.0.0", str(checkpoint), signer.pem),
        signer.tools(),
    )
    assert done.release is not None
    for number in (1, 2):
        shutil.copytree(tmp_path / "source0", tmp_path / f"source{number}")
    ca = issue(tmp_path, "ca", None)
    issue(tmp_path, "host", ca)
    issue(tmp_path, "stranger", None)
    ports = [free_port() for _number in range(3)]
    processes = {number: start_nginx(tmp_path, number, port) for number, port in enumerate(ports)}
    site = Site(tmp_path, signer, done.release, ports, processes)
    yield site
    for number in list(site.processes):
        site.stop(number)


def same(site: Site) -> bool:
    return tree(site.root / "here") == tree(site.root / "source0")


def test_pull_and_pull_again(site: Site) -> None:
    assert site.pull(check_mode=True).changed
    assert not (site.root / "here").exists()
    pulled = site.pull()
    assert pulled.changed
    assert pulled.complete
    assert [item.state for item in pulled.artefacts] == ["pulled", "pulled"]
    assert same(site)
    assert {
        oct(item.stat().st_mode & 0o777)
        for item in (site.root / "here").rglob("*.*")
        if item.is_file()
    } == {"0o444", "0o600"}
    for number in (0, 1, 2):
        site.stop(number)
    again = site.pull()
    assert not again.changed
    assert [item.state for item in again.artefacts] == ["complete", "complete"]


def test_only_the_graph(site: Site) -> None:
    site.pull(kinds=["graph"])
    assert not (site.root / "here" / "checkpoint").exists()
    assert not site.pull(kinds=["graph"]).changed
    assert site.pull(check_mode=True).changed


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_sources_that_are_down_empty_or_corrupt_do_not_matter(site: Site) -> None:
    site.stop(0)
    overwrite(site.weights(site.root / "source1"), PIECE + 1000, b"rotten")
    pulled = site.pull()
    assert same(site)
    assert "cannot be reached" in pulled.source_problems[f"https://127.0.0.1:{site.ports[0]}"]
    shutil.rmtree(site.root / "here")
    shutil.rmtree(site.root / "source1" / "graph")
    pulled = site.pull()
    assert "404" in pulled.source_problems[f"https://127.0.0.1:{site.ports[1]}"]
    assert same(site)


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_a_piece_that_is_corrupt_everywhere_is_never_accepted(site: Site) -> None:
    for number in range(3):
        overwrite(site.weights(site.root / f"source{number}"), PIECE + 1000, b"rotten")
    with pytest.raises(ReplicaError, match="No source has all pieces right"):
        site.pull()
    assert replica.list_releases(str(site.root / "here")) == []
    assert not site.weights(site.root / "here").exists()
    shutil.copy(site.root / "import" / "model.safetensors", site.weights(site.root / "source2"))
    assert site.pull().changed
    assert tree(site.root / "here") == tree(site.root / "source2")


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_a_damaged_copy_is_repaired_and_only_the_bad_piece_is_fetched(site: Site) -> None:
    site.pull()
    for number in range(3):
        (site.root / f"access{number}.log").write_text("")
    overwrite(site.weights(site.root / "here"), PIECE + 1000, b"rotten")
    assert not site.pull(full=False).changed
    assert site.pull(check_mode=True).changed
    repaired = site.pull()
    assert [item.state for item in repaired.artefacts] == ["repaired", "complete"]
    assert [problem.kind for problem in repaired.artefacts[0].repaired] == ["sha256"]
    assert same(site)
    sent = 0
    for number in range(3):
        lines = (site.root / f"access{number}.log").read_text().splitlines()
        sent += sum(
            int(line.split('"')[2].split()[1]) for line in lines if "model.safetensors" in line
        )
    assert 0 < sent <= LARGE - PIECE + 4096


def test_missing_truncated_extra_and_writable_files_are_repaired(site: Site) -> None:
    site.pull()
    graph = site.root / "here" / "graph" / "tiny" / site.release.graphs["fp32"]
    (graph / "decoder.onnx").unlink()
    (graph / "empty").unlink()
    (graph / "extra").mkdir()
    (graph / "extra" / "evil").symlink_to("/etc/passwd")
    weights = site.weights(site.root / "here")
    os.truncate(weights, 1000)
    for name in ("manifest.json", "pieces.meta4", "model.sig"):
        os.truncate(weights.parent / name, 10)
    assert [item.state for item in site.pull().artefacts] == ["repaired", "repaired"]
    assert same(site)
    assert not (graph / "extra").exists()
    for number in (0, 1, 2):
        site.stop(number)
    weights.chmod(0o666)
    (weights.parent / "more").write_text("x")
    assert site.pull().artefacts[0].state == "repaired"
    assert same(site)


@pytest.mark.parametrize("site", [LARGE], indirect=True)
def test_an_interrupted_pull_is_resumed(site: Site) -> None:
    part = Path(f"{site.weights(site.root / 'here').parent}.part")
    part.mkdir(parents=True)
    shutil.copy(site.root / "import" / "model.safetensors", part / "model.safetensors")
    os.truncate(part / "model.safetensors", PIECE)
    (part / "junk").write_text("x")
    site.pull()
    assert same(site)


def test_a_tampered_release_is_refused_and_another_source_is_used(site: Site) -> None:
    name = "releases/tiny/1.0.0.json"
    path = site.root / "source0" / name
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    pulled = site.pull()
    assert "does not verify" in pulled.source_problems[f"https://127.0.0.1:{site.ports[0]}"]
    shutil.rmtree(site.root / "here")
    for number in (1, 2):
        shutil.copy(path, site.root / f"source{number}" / name)
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull()
    assert not (site.root / "here" / "releases").exists()


def test_a_release_of_another_site_is_refused(site: Site) -> None:
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull(public_key=Signer().pem)


@pytest.mark.parametrize("name", ["manifest.json", "pieces.meta4", "model.sig"])
def test_tampered_metadata_is_taken_from_another_source_or_refused(site: Site, name: str) -> None:
    folder = site.weights(Path()).parent
    for number in range(3):
        overwrite(site.root / f"source{number}" / folder / name, 5, b"#")
        if number == 1:
            assert site.pull().changed
            shutil.rmtree(site.root / "here")
    with pytest.raises(ReplicaError, match=name):
        site.pull()


def test_a_release_that_was_tampered_with_here_is_replaced(site: Site) -> None:
    site.pull()
    path = site.root / "here" / "releases" / "tiny" / "1.0.0.json"
    overwrite(path, 3, b"#")
    assert replica.inspect_replica(site.request()).signature == "invalid"
    assert site.pull().changed
    assert same(site)


def test_a_pinned_release_must_be_that_one(site: Site) -> None:
    with pytest.raises(ReplicaError, match="signed twice"):
        site.pull(release_digest="0" * 64)
    digest = site.pull().digest
    assert not site.pull(release_digest=digest).changed
    with pytest.raises(ReplicaError, match="signed twice"):
        site.pull(release_digest="0" * 64)


def test_a_certificate_of_another_authority_gets_nothing(site: Site) -> None:
    with pytest.raises(ReplicaError, match="No source"):
        site.pull("stranger")


def test_no_source_and_no_copy(site: Site) -> None:
    with pytest.raises(ReplicaError, match="no sources are configured"):
        site.pull(sources=[])
    with pytest.raises(ReplicaError, match="not an https URL"):
        site.pull(sources=["http://127.0.0.1"])
    with pytest.raises(ReplicaError, match="404"):
        site.pull(version="2.0.0")


def test_room_is_checked_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=SMALL))
    with pytest.raises(ReplicaError, match="bytes free"):
        site.pull()
    assert not list((site.root / "here").rglob("*.part"))


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        replica.store_lock(str(tmp_path)),
        pytest.raises(ReplicaError, match="holds"),
        replica.store_lock(str(tmp_path), 0.3),
    ):
        pass
    with replica.store_lock(str(tmp_path), 0):
        pass


@pytest.mark.parametrize(
    ("model", "version"), [("../x", "1"), ("m", "../1"), ("", "1"), ("m", "a/b")]
)
def test_names_cannot_leave_the_store(model: str, version: str) -> None:
    with pytest.raises(ArtefactError):
        Request("/store", model, version, b"")
    with pytest.raises(ArtefactError):
        Plan("/store", model, version, "/c", b"")
