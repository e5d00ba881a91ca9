"""Verify a release before anything of it is loaded.

The chain: release.json.sig -> release.json -> digest of the graph -> manifest.json -> every file.
The graph's model.sig is checked as well, with the same public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deepseek_serving.errors import VerificationError
from deepseek_serving.trust.hashing import sha256
from deepseek_serving.trust.signing import SIGNATURE_FILE, verify_signature

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
PIECES_FILE = "pieces.meta4"
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Release:
    """A verified release: the key vouches for every byte in the folder of what is served.

    That is a graph, or the checkpoint where another server runs it; `digest` is the folder's.
    """

    model: str
    version: str
    digest: str
    graph: Path

    @property
    def header(self) -> str:
        return f"{self.model}/{self.version}@{self.digest[:12]}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}") from error


def _object(path: Path, data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise VerificationError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise VerificationError(f"{path}: not a JSON object of schema {SCHEMA}")
    return value


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(_read(path))
    except ValueError as error:
        raise VerificationError(f"{path}: not a PEM public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise VerificationError(f"{path}: not an elliptic-curve public key")
    return key


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}") from error


def _check_file(folder: Path, name: str, entry: object) -> None:
    path = folder / name
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise VerificationError(
            f"{folder / MANIFEST_FILE}: {name!r} is not a path inside the folder"
        )
    if not isinstance(entry, dict) or not DIGEST.fullmatch(str(entry.get("sha256"))):
        raise VerificationError(f"{folder / MANIFEST_FILE}: the entry of {name!r} is malformed")
    if path.is_symlink() or not path.is_file():
        raise VerificationError(f"{path}: missing or not a plain file; pull the artifact again")
    size = path.stat().st_size
    if size != entry.get("size"):
        raise VerificationError(
            f"{path}: {size} bytes, the manifest says {entry.get('size')}; pull the artifact again"
        )
    actual = _sha256(path)
    if actual != entry["sha256"]:
        raise VerificationError(
            f"{path}: changed after signing: SHA-256 is {actual}, the manifest says "
            f"{entry['sha256']}; pull the artifact again"
        )


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise VerificationError(f"{folder / MANIFEST_FILE}: lists no files")
    expected = dict(files)
    expected[PIECES_FILE] = manifest.get("pieces")
    present = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    }
    unknown = present - set(expected) - {MANIFEST_FILE, SIGNATURE_FILE}
    if unknown:
        raise VerificationError(
            f"{folder}: not listed in the manifest: {', '.join(sorted(unknown))}; "
            "remove it or pull the artifact again"
        )
    for name, entry in sorted(expected.items()):
        _check_file(folder, name, entry)


def verify_artifact(folder: Path, public_key: Path, digest: str | None = None) -> str:
    """Check an artifact's manifest, files and signature; return its digest."""
    path = folder / MANIFEST_FILE
    data = _read(path)
    actual = hashlib.sha256(data).hexdigest()
    if digest is not None and actual != digest:
        raise VerificationError(
            f"{path}: changed after signing: its digest is {actual}, expected {digest}; "
            "pull the artifact again"
        )
    _check_files(folder, _object(path, data))
    _public_key(public_key)
    verify_signature(folder, public_key)
    return actual


def _check_signature(path: Path, data: bytes, public_key: Path) -> None:
    signature_path = path.with_name(path.name + ".sig")
    try:
        signature = base64.b64decode(_read(signature_path).strip(), validate=True)
        _public_key(public_key).verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except binascii.Error as error:
        raise VerificationError(f"{signature_path}: not base64: {error}") from error
    except InvalidSignature as error:
        raise VerificationError(
            f"{path}: its signature does not verify with {public_key}; it was changed after "
            "signing or signed with another key"
        ) from error


def _signed(
    store: Path, name: str, version: str, public_key: Path
) -> tuple[Path, Mapping[str, Any]]:
    """A release's record, with the path for messages, once its signature is verified."""
    path = store / "releases" / name / f"{version}.json"
    data = _read(path)
    _check_signature(path, data, public_key)
    release = _object(path, data)
    if (release.get("model"), release.get("version")) != (name, version):
        raise VerificationError(
            f"{path}: is the release {release.get('model')} {release.get('version')}, "
            f"not {name} {version}"
        )
    return path, release


def verify_release(
    store: Path, name: str, version: str, public_key: Path, graph: str = "fp32"
) -> Release:
    """Follow the chain from the release's signature down to the graph's files."""
    path, release = _signed(store, name, version, public_key)
    graphs = release.get("graphs")
    digest = graphs.get(graph) if isinstance(graphs, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        named = ", ".join(sorted(graphs)) if isinstance(graphs, dict) else "none"
        raise VerificationError(f"{path}: names no {graph} graph (it names: {named})")
    folder = store / "graph" / name / digest
    verify_artifact(folder, public_key, digest)
    return Release(model=name, version=version, digest=digest, graph=folder)


def verify_checkpoint(store: Path, name: str, version: str, public_key: Path) -> Release:
    """Follow the chain from the release's signature down to the checkpoint's manifest.

    Its files are for another server to load, and are verified before that one starts.
    """
    path, release = _signed(store, name, version, public_key)
    digest = release.get("checkpoint")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise VerificationError(f"{path}: names no checkpoint")
    folder = store / "checkpoint" / name / digest
    manifest = folder / MANIFEST_FILE
    actual = hashlib.sha256(_read(manifest)).hexdigest()
    if actual != digest:
        raise VerificationError(
            f"{manifest}: changed after signing: its digest is {actual}, expected {digest}; "
            "pull the artifact again"
        )
    return Release(model=name, version=version, digest=digest, graph=folder)
