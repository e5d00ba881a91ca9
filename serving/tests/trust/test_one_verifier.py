"""What the collection accepts, the service accepts, and nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import MODEL, ROOT, VERSION

import deepseek_serving
from deepseek_serving.artifacts.build import describe
from deepseek_serving.artifacts.files import list_directory, seal_directory
from deepseek_serving.artifacts.hashing import hash_files, sha256_hex
from deepseek_serving.artifacts.manifest import Manifest, canonical_json
from deepseek_serving.artifacts.names import MANIFEST, PIECES, SIGNATURE, ArtifactError
from deepseek_serving.artifacts.release import Release, parse_release
from deepseek_serving.artifacts.signatures import encode_signature, verify_release_signature
from deepseek_serving.artifacts.verify import verify_directory
from deepseek_serving.errors import VerificationError
from deepseek_serving.trust.release import verify_release

SHARED = ("artifacts", "checkpoint")
IN_TOTO = "application/vnd.in-toto+json"


@dataclass
class Case:
    """An artifact to be signed, and what is to be wrong with it."""

    curve: ec.EllipticCurve = dataclasses.field(default_factory=ec.SECP256R1)
    kind: str = "graph"
    name: str = MODEL
    file: str = "decoder.onnx"
    extra: dict[str, object] = dataclasses.field(default_factory=dict)
    mode: int = 0o444


CASES = {
    "as it is published": (Case(), True),
    "a key of another curve": (Case(curve=ec.SECP384R1()), False),
    "a manifest with a key that nobody knows": (Case(extra={"expires": "never"}), False),
    "a checkpoint where a graph is expected": (Case(kind="checkpoint"), False),
    "another model's graph": (Case(name="another"), False),
    "a hidden file": (Case(file=".decoder.onnx"), False),
    "a file that can be written": (Case(mode=0o644), False),
}


def bundle(manifest: dict[str, object], data: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """What model-signing writes: an in-toto statement in an envelope."""
    files = manifest["files"]
    assert isinstance(files, dict)
    digests = {path: entry["sha256"] for path, entry in files.items()}
    pieces = manifest["pieces"]
    assert isinstance(pieces, dict)
    digests |= {MANIFEST: sha256_hex(data), PIECES: pieces["sha256"]}
    resources = [
        {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
    ]
    payload = json.dumps({"predicate": {"resources": resources}}).encode()
    message = b"DSSEv1 %d %s %d %s" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": base64.b64encode(sign(message)).decode()}],
    }
    return json.dumps({"dsseEnvelope": envelope}).encode()


def manifest_of(work: Path, case: Case) -> tuple[dict[str, object], bytes]:
    """The manifest of a directory with one file, and its pieces."""
    hashed = hash_files(str(work), list_directory(str(work)))
    shown = {"decoder.onnx": hashed[case.file]}
    manifest, pieces = describe(case.kind, case.name, shown)
    value = json.loads(manifest.to_bytes())
    value["files"] = {case.file: value["files"]["decoder.onnx"]}
    return {**value, **case.extra}, pieces


def publish(store: Path, case: Case) -> tuple[str, Path]:
    """Write the artifact and the release; the artifact's digest, and the public key."""
    key = ec.generate_private_key(case.curve)

    def sign(data: bytes) -> bytes:
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    work = store / "work"
    work.mkdir(parents=True)
    (work / case.file).write_bytes(b"a graph")
    manifest, pieces = manifest_of(work, case)
    data = canonical_json(manifest)
    (work / MANIFEST).write_bytes(data)
    (work / PIECES).write_bytes(pieces)
    (work / SIGNATURE).write_bytes(bundle(manifest, data, sign))
    seal_directory(str(work))
    (work / case.file).chmod(case.mode)
    digest = sha256_hex(data)
    folder = store / "graph" / MODEL / digest
    folder.parent.mkdir(parents=True)
    work.rename(folder)
    release = Release(MODEL, VERSION, "0" * 64, {"fp32": digest}).to_bytes()
    record = store / "releases" / MODEL / f"{VERSION}.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(release)
    record.with_name(f"{record.name}.sig").write_bytes(encode_signature(sign(release)))
    public_key = store / "release.pub"
    public_key.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return digest, public_key


def collection_accepts(store: Path, digest: str, public_key: Path) -> bool:
    """As the roles check a copy of a release."""
    record = store / "releases" / MODEL / f"{VERSION}.json"
    data, signature = record.read_bytes(), record.with_name(f"{record.name}.sig").read_bytes()
    try:
        verify_release_signature(public_key.read_bytes(), data, signature)
        parse_release(data, MODEL, VERSION)
    except ArtifactError:
        return False
    manifest, differences = verify_directory(
        str(store / "graph" / MODEL / digest),
        digest,
        public_key=public_key.read_bytes(),
        expect=("graph", MODEL),
    )
    return isinstance(manifest, Manifest) and not differences


def service_accepts(store: Path, digest: str, public_key: Path) -> bool:
    """As deepseek-serve begins."""
    try:
        release = verify_release(store, MODEL, VERSION, public_key)
    except VerificationError:
        return False
    return release.digest == digest


@pytest.mark.parametrize(("case", "accepted"), CASES.values(), ids=CASES)
def test_both_doors_judge_the_same(tmp_path: Path, case: Case, accepted: bool) -> None:
    digest, public_key = publish(tmp_path / "store", case)
    judged = [
        accepts(tmp_path / "store", digest, public_key)
        for accepts in (collection_accepts, service_accepts)
    ]
    assert judged == [accepted, accepted]


@pytest.mark.parametrize("package", SHARED)
def test_the_code_that_verifies_is_the_collections(package: str) -> None:
    """Links, so that there is one copy; a wheel holds the files that they lead to.

    Of each file, since ansible-test allows no links to directories.
    """
    here = ROOT / "serving" / "src" / "deepseek_serving" / package
    there = ROOT / "plugins" / "module_utils" / package
    names = {path.name for path in there.glob("*.py")}
    assert {path.name for path in here.glob("*.py")} == names
    for name in names:
        assert (here / name).is_symlink()
        assert os.path.samefile(here / name, there / name)
    assert os.path.samefile(here, Path(deepseek_serving.__file__).with_name(package))
