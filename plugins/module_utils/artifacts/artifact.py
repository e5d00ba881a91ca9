# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Artifacts and releases: what they look like on disk, and whether they are what they claim.

An artifact is an immutable folder ``<store>/<kind>/<name>/<digest>/``. Its digest is the SHA-256 of
its ``manifest.json``, which lists every payload file and pins ``pieces.meta4`` (Metalink, RFC 5854).
A release names artifacts by digest and is signed, so one signature vouches for every byte below it:
release.sig -> release.json -> digest -> manifest.json -> files and pieces.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

SCHEMA = 1
KINDS = ("checkpoint", "graph", "engine")
# What a release names by digest. Engines are found by their key instead, so that a new kind of GPU adds one to what is published.
RELEASE_KINDS = ("checkpoint", "graph")
PIECE_SIZE = 64 * 1024 * 1024
MANIFEST = "manifest.json"
PIECES = "pieces.meta4"
SIGNATURE = "model.sig"
RESERVED = (MANIFEST, PIECES, SIGNATURE)
FOLDER_MODE = 0o755  # what is stored is published to all hosts
METALINK_NAMESPACE = "urn:ietf:params:xml:ns:metalink"

BLOCK = 1024 * 1024
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_IN_TOTO = "application/vnd.in-toto+json"


class ArtifactError(Exception):
    """An artifact, release or path is not acceptable; the message says which and why."""


# --- names and paths ------------------------------------------------------------------------------


def check_name(value: object, what: str) -> str:
    """Return a model name, version or precision that is safe as one path component."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise ArtifactError(
            f"{what} {value!r} is not usable: it must start with a letter or digit and contain only letters, "
            "digits, '.', '_' and '-' (at most 128)"
        )
    return value


def check_digest(value: object, what: str) -> str:
    """Return a SHA-256 in lower-case hexadecimal."""
    if not isinstance(value, str) or not _HEX_DIGEST.match(value):
        raise ArtifactError(f"{what} {value!r} is not a SHA-256 in lower-case hexadecimal")
    return value


def check_relative_path(value: object) -> str:
    """Return a payload path that can neither leave its folder nor clash with the store's own names."""
    if not isinstance(value, str) or not value:
        raise ArtifactError(f"path {value!r} is not a non-empty string")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise ArtifactError(f"path {value!r} contains control or unencodable characters")
    if any(ord(char) & 0xFFFE == 0xFFFE for char in value):
        raise ArtifactError(f"path {value!r} contains characters that are none")
    if "\\" in value:
        raise ArtifactError(f"path {value!r} contains a backslash")
    if value.startswith("/"):
        raise ArtifactError(f"path {value!r} is absolute")
    if len(value.encode("utf-8")) > 1024:
        raise ArtifactError(f"path {value!r} is longer than 1024 bytes")
    for part in value.split("/"):
        if part in ("", ".", ".."):
            raise ArtifactError(f"path {value!r} contains the component {part!r}")
        if part.startswith("."):
            raise ArtifactError(f"path {value!r} contains the hidden component {part!r}")
    if value in RESERVED:
        raise ArtifactError(f"path {value!r} is a name that the store uses itself")
    if value.endswith(".aria2"):
        raise ArtifactError(f"path {value!r} ends in .aria2, which marks unfinished downloads")
    return value


def _check_paths(paths: Iterable[object]) -> None:
    known = {check_relative_path(path) for path in paths}
    for path in known:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in known:
                raise ArtifactError(f"path {parent!r} is both a file and a folder")
            parent = parent.rpartition("/")[0]


def list_folder(folder: str, skip_hidden: bool = False) -> list[str]:
    """List all files below *folder*, sorted; refuse symbolic links and special files by name."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        raise ArtifactError(f"{folder} is not a folder")
    found: list[str] = []
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(folder, relative)) as entries:
            for entry in entries:
                if skip_hidden and entry.name.startswith("."):
                    continue
                path = os.path.join(relative, entry.name)
                if entry.is_symlink():
                    raise ArtifactError(f"{os.path.join(folder, path)} is a symbolic link")
                if entry.is_dir():
                    pending.append(path)
                elif entry.is_file():
                    found.append(path)
                else:
                    raise ArtifactError(f"{os.path.join(folder, path)} is not a regular file")
    return sorted(found)


# --- hashing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileHash:
    """Size and SHA-256 of a file, and the SHA-256 of each of its pieces."""

    size: int
    sha256: str
    pieces: tuple[str, ...]


class PieceHasher:
    """Hash a stream as a whole and piece by piece, in one pass over the bytes."""

    def __init__(self, piece_size: int = PIECE_SIZE) -> None:
        self._piece_size = piece_size
        self._whole = hashlib.sha256()
        self._piece = hashlib.sha256()
        self._in_piece = 0
        self._size = 0
        self._pieces: list[str] = []

    def update(self, data: bytes) -> None:
        self._whole.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            part = view[: self._piece_size - self._in_piece]
            self._piece.update(part)
            self._in_piece += len(part)
            view = view[len(part) :]
            if self._in_piece == self._piece_size:
                self._end_piece()

    def _end_piece(self) -> None:
        self._pieces.append(self._piece.hexdigest())
        self._piece = hashlib.sha256()
        self._in_piece = 0

    def finish(self) -> FileHash:
        if self._in_piece:
            self._end_piece()
        return FileHash(self._size, self._whole.hexdigest(), tuple(self._pieces))


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str) -> str:
    """SHA-256 of a file; does not follow a symbolic link."""
    whole = hashlib.sha256()
    with open_regular(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            whole.update(block)
    return whole.hexdigest()


def hash_file(path: str, piece_size: int = PIECE_SIZE) -> FileHash:
    """Hash one file and its pieces; does not follow a symbolic link."""
    hasher = PieceHasher(piece_size)
    with open_regular(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            hasher.update(block)
    return hasher.finish()


def open_regular(path: str) -> Any:
    """Open to read, without following a final symbolic link: a path checked earlier may have been replaced."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def worker_count(jobs: int) -> int:
    """Threads for hashing: hashlib releases the interpreter lock, so one per core pays off."""
    return max(1, min(jobs, os.cpu_count() or 1, 16))


def hash_files(
    folder: str, paths: Sequence[str], piece_size: int = PIECE_SIZE
) -> dict[str, FileHash]:
    """Hash several files of a folder, the largest first so that no core idles at the end."""
    ordered = sorted(paths, key=lambda path: -os.lstat(os.path.join(folder, path)).st_size)
    with ThreadPoolExecutor(max_workers=worker_count(len(ordered))) as pool:
        jobs = {
            path: pool.submit(hash_file, os.path.join(folder, path), piece_size) for path in ordered
        }
        return {path: job.result() for path, job in jobs.items()}


# --- manifest -------------------------------------------------------------------------------------


def canonical_json(value: object) -> bytes:
    """JSON with one spelling for one value: what is hashed and signed must not depend on the writer."""
    return (
        json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    ).encode("ascii")


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one payload file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says."""

    kind: str
    name: str
    files: Mapping[str, FileEntry]
    pieces: FileEntry
    source: str = ""
    license: str = ""
    tools: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "name": self.name,
                "source": self.source,
                "license": self.license,
                "tools": dict(self.tools),
                "parameters": dict(self.parameters),
                "evaluation": dict(self.evaluation),
                "parents": list(self.parents),
                "files": {path: _entry_dict(entry) for path, entry in self.files.items()},
                "pieces": _entry_dict(self.pieces),
            }
        )

    @property
    def digest(self) -> str:
        return sha256_hex(self.to_bytes())

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(entry.size for entry in self.files.values())


def _entry_dict(entry: FileEntry) -> dict[str, Any]:
    return {"size": entry.size, "sha256": entry.sha256}


def _parse_object(data: bytes, what: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise ArtifactError(f"{what} is not acceptable: nested too deeply") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} is not a JSON object")
    missing = sorted(set(keys) - set(value))
    unknown = sorted(set(value) - set(keys))
    if missing or unknown:
        raise ArtifactError(f"{what} has missing keys {missing} and unknown keys {unknown}")
    if value["schema"] != SCHEMA or isinstance(value["schema"], bool):
        raise ArtifactError(
            f"{what} has schema {value['schema']!r}; this version reads schema {SCHEMA}"
        )
    return value


def _parse_entry(value: object, what: str) -> FileEntry:
    if not isinstance(value, dict) or set(value) != {"size", "sha256"}:
        raise ArtifactError(f"{what} must have exactly 'size' and 'sha256'")
    size = value["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ArtifactError(f"{what} has size {size!r}, which is not a number of bytes")
    return FileEntry(size, check_digest(value["sha256"], f"{what}: sha256"))


def parse_manifest(data: bytes) -> Manifest:
    """Read ``manifest.json``, strictly: everything in it will be acted upon."""
    keys = (
        "schema",
        "kind",
        "name",
        "source",
        "license",
        "tools",
        "parameters",
        "evaluation",
        "parents",
        "files",
        "pieces",
    )
    value = _parse_object(data, MANIFEST, keys)
    if value["kind"] not in KINDS:
        raise ArtifactError(
            "{} has kind {!r}; known kinds are {}".format(MANIFEST, value["kind"], ", ".join(KINDS))
        )
    for key in ("source", "license"):
        if not isinstance(value[key], str):
            raise ArtifactError(f"{MANIFEST}: {key} must be a string")
    for key in ("tools", "parameters", "evaluation", "files"):
        if not isinstance(value[key], dict):
            raise ArtifactError(f"{MANIFEST}: {key} must be an object")
    if not isinstance(value["parents"], list):
        raise ArtifactError(f"{MANIFEST}: parents must be a list")
    if not value["files"]:
        raise ArtifactError(f"{MANIFEST} lists no files")
    _check_paths(value["files"])
    return Manifest(
        kind=value["kind"],
        name=check_name(value["name"], f"{MANIFEST}: name"),
        files={
            path: _parse_entry(entry, f"{MANIFEST}: file {path}")
            for path, entry in value["files"].items()
        },
        pieces=_parse_entry(value["pieces"], f"{MANIFEST}: pieces"),
        source=value["source"],
        license=value["license"],
        tools=value["tools"],
        parameters=value["parameters"],
        evaluation=value["evaluation"],
        parents=tuple(check_digest(parent, f"{MANIFEST}: parent") for parent in value["parents"]),
    )


# --- release --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """A model version and the artifacts it consists of."""

    model: str
    version: str
    checkpoint: str
    graphs: Mapping[str, str]

    def to_bytes(self) -> bytes:
        return canonical_json(
            {
                "schema": SCHEMA,
                "model": self.model,
                "version": self.version,
                "checkpoint": self.checkpoint,
                "graphs": dict(self.graphs),
            }
        )

    def artifacts(
        self, kinds: Sequence[str] = RELEASE_KINDS, precisions: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        """(kind, digest) of each artifact, without repetition, checkpoint first.

        With *precisions*, only the graphs of these.
        """
        lacking = [name for name in precisions if name not in self.graphs]
        if lacking:
            raise ArtifactError(
                f"release {self.model}/{self.version} has no graph of precision {', '.join(lacking)} "
                f"(it has {', '.join(sorted(self.graphs)) or 'none'}): publish that precision under a new version"
            )
        wanted: list[tuple[str, str]] = []
        if "checkpoint" in kinds:
            wanted.append(("checkpoint", self.checkpoint))
        if "graph" in kinds:
            graphs = {self.graphs[name] for name in precisions or self.graphs}
            wanted.extend(("graph", digest) for digest in sorted(graphs))
        return wanted


def parse_release(data: bytes, model: str | None = None, version: str | None = None) -> Release:
    """Read a release; with *model* and *version*, refuse one that was filed under another name."""
    value = _parse_object(data, "release", ("schema", "model", "version", "checkpoint", "graphs"))
    graphs = value["graphs"]
    if not isinstance(graphs, dict):
        raise ArtifactError("release: graphs is no mapping")
    release = Release(
        model=check_name(value["model"], "release: model"),
        version=check_name(value["version"], "release: version"),
        checkpoint=check_digest(value["checkpoint"], "release: checkpoint"),
        graphs={
            check_name(precision, "release: precision"): check_digest(
                digest, f"release: graph {precision}"
            )
            for precision, digest in graphs.items()
        },
    )
    for what, expected, found in (
        ("model", model, release.model),
        ("version", version, release.version),
    ):
        if expected is not None and expected != found:
            raise ArtifactError(f"release is for {what} {found!r}, not {expected!r}")
    return release


def artifact_path(store: str, kind: str, name: str, digest: str) -> str:
    return os.path.join(store, kind, name, digest)


def release_path(store: str, model: str, version: str) -> str:
    return os.path.join(store, "releases", model, f"{version}.json")


def retired_path(store: str, model: str, version: str) -> str:
    """The record that a version was retired on this host; hidden, so that it is not served."""
    return os.path.join(store, "releases", model, f".{version}.retired")


# --- Metalink -------------------------------------------------------------------------------------


def metalink_bytes(files: Mapping[str, FileHash], piece_size: int = PIECE_SIZE) -> bytes:
    """Write ``pieces.meta4`` with URLs relative to the artifact's folder: it must not know any host."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<metalink xmlns="{METALINK_NAMESPACE}">']
    for path in sorted(files):
        hashed = files[path]
        lines.append(f"  <file name={quoteattr(path)}>")
        lines.append(f"    <size>{hashed.size}</size>")
        lines.append(f'    <hash type="sha-256">{hashed.sha256}</hash>')
        if hashed.pieces:
            lines.append(f'    <pieces length="{piece_size}" type="sha-256">')
            lines.extend(f"      <hash>{piece}</hash>" for piece in hashed.pieces)
            lines.append("    </pieces>")
        lines.append(f"    <url>{escape(quote(path))}</url>")
        lines.append("  </file>")
    lines.append("</metalink>")
    return ("\n".join(lines) + "\n").encode("utf-8")


def _tag(name: str) -> str:
    return f"{{{METALINK_NAMESPACE}}}{name}"


def parse_metalink(data: bytes) -> dict[str, FileHash]:
    """Read what :func:`metalink_bytes` wrote."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ArtifactError(f"{PIECES} contains a document type definition")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ArtifactError(f"{PIECES} is not XML: {error}") from error
    files: dict[str, FileHash] = {}
    for element in root.findall(_tag("file")):
        path = check_relative_path(element.get("name"))
        size = element.findtext(_tag("size"), "")
        if not size.isascii() or not size.isdigit():
            raise ArtifactError(f"{PIECES}: file {path} has no size")
        pieces = tuple(
            check_digest(piece.text, f"{PIECES}: piece of {path}")
            for piece in element.findall("{}/{}".format(_tag("pieces"), _tag("hash")))
        )
        whole = check_digest(element.findtext(_tag("hash")), f"{PIECES}: hash of {path}")
        files[path] = FileHash(int(size), whole, pieces)
    return files


def check_metalink(data: bytes, manifest: Manifest) -> dict[str, FileHash]:
    """Refuse a Metalink that is not the one the manifest pins or that describes other files."""
    if sha256_hex(data) != manifest.pieces.sha256 or len(data) != manifest.pieces.size:
        raise ArtifactError(f"{PIECES} is not the one that {MANIFEST} pins")
    files = parse_metalink(data)
    described = {path: FileEntry(entry.size, entry.sha256) for path, entry in files.items()}
    if described != dict(manifest.files):
        raise ArtifactError(f"{PIECES} and {MANIFEST} describe different files")
    return files


def expand_metalink(
    files: Mapping[str, FileHash], folder_urls: Sequence[str], piece_size: int = PIECE_SIZE
) -> bytes:
    """The same Metalink with one absolute URL per source for each file, as a downloader needs it."""
    root = ElementTree.Element("metalink", {"xmlns": METALINK_NAMESPACE})
    for path in sorted(files):
        hashed = files[path]
        element = ElementTree.SubElement(root, "file", {"name": path})
        ElementTree.SubElement(element, "size").text = str(hashed.size)
        ElementTree.SubElement(element, "hash", {"type": "sha-256"}).text = hashed.sha256
        if hashed.pieces:
            pieces = ElementTree.SubElement(
                element, "pieces", {"length": str(piece_size), "type": "sha-256"}
            )
            for piece in hashed.pieces:
                ElementTree.SubElement(pieces, "hash").text = piece
        for base in folder_urls:
            ElementTree.SubElement(element, "url").text = "{}/{}".format(
                base.rstrip("/"), quote(path)
            )
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


# --- signatures -----------------------------------------------------------------------------------


def _public_key(pem: bytes) -> Any:
    if not HAS_CRYPTOGRAPHY:
        raise ArtifactError(
            "the Python library 'cryptography' is missing: install python3-cryptography"
        )
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise ArtifactError(f"the release public key is not a PEM public key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ArtifactError("the release public key is not an EC P-256 key")
    return key


def _verify_der(pem: bytes, signature: bytes, data: bytes) -> bool:
    try:
        _public_key(pem).verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def verify_release_signature(pem: bytes, data: bytes, signature: bytes) -> None:
    """Check ``<version>.json.sig`` (base64 of a DER ECDSA-SHA256 signature) or say what is wrong."""
    try:
        der = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ArtifactError("the release signature is not base64") from error
    if not _verify_der(pem, der, data):
        raise ArtifactError("the release signature does not verify against the release public key")


def encode_signature(der: bytes) -> bytes:
    return base64.b64encode(der) + b"\n"


def _bundle_statement(pem: bytes, bundle: bytes) -> Any:
    """Return the signed statement of a Sigstore bundle (a DSSE envelope) after checking its signature."""
    try:
        envelope = json.loads(bundle.decode("utf-8"))["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = envelope["payloadType"]
        (signature,) = envelope["signatures"]
        der = base64.b64decode(signature["sig"], validate=True)
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{SIGNATURE} is not a model-signing bundle") from error
    if kind != _IN_TOTO:
        raise ArtifactError(f"{SIGNATURE} signs a payload of type {kind!r}")
    encoded_kind = kind.encode("ascii")
    message = b"DSSEv1 %d %s %d %s" % (len(encoded_kind), encoded_kind, len(payload), payload)
    if not _verify_der(pem, der, message):
        raise ArtifactError(f"{SIGNATURE} does not verify against the release public key")
    return json.loads(payload.decode("utf-8"))


def verify_model_signature(pem: bytes, bundle: bytes, manifest: Manifest) -> None:
    """Check ``model.sig``: signed by the site's key, over exactly the files of this artifact.

    The bundle lists a SHA-256 per file. Comparing that list with the manifest is enough here: the
    bytes on disk are compared with the manifest by :func:`verify_folder`.
    """
    statement = _bundle_statement(pem, bundle)
    expected = {path: entry.sha256 for path, entry in manifest.files.items()}
    expected[MANIFEST] = manifest.digest
    expected[PIECES] = manifest.pieces.sha256
    try:
        resources = statement["predicate"]["resources"]
        signed = {
            item["name"]: item["digest"] for item in resources if item["algorithm"] == "sha256"
        }
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{SIGNATURE} has no list of signed files") from error
    if signed != expected or len(resources) != len(expected):
        raise ArtifactError(f"{SIGNATURE} was made for other files than {MANIFEST} lists")


# --- verification of a folder ---------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One way in which a folder is not the artifact it should be."""

    path: str
    kind: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        return {"path": self.path, "kind": self.kind, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.path}: {self.kind} ({self.detail})"


def read_small(path: str, limit: int = 64 * 1024 * 1024) -> bytes:
    """Read a metadata file whole, refusing symbolic links and absurd sizes."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise ArtifactError(f"{path} has {size} bytes, more than the limit of {limit}")
        content: bytes = b"".join(iter(lambda: stream.read(BLOCK), b""))
        return content


def _check_metadata(folder: str, digest: str, differences: list[Difference]) -> Manifest | None:
    try:
        data = read_small(os.path.join(folder, MANIFEST))
    except (OSError, ArtifactError) as error:
        differences.append(Difference(MANIFEST, "missing", str(error)))
        return None
    found = sha256_hex(data)
    if found != digest:
        differences.append(Difference(MANIFEST, "sha256", f"expected {digest}, found {found}"))
        return None
    try:
        return parse_manifest(data)
    except ArtifactError as error:
        differences.append(Difference(MANIFEST, "invalid", str(error)))
        return None


def _check_file(folder: str, path: str, expected: FileEntry, full: bool) -> Difference | None:
    full_path = os.path.join(folder, path)
    try:
        status = os.lstat(full_path)
    except (FileNotFoundError, NotADirectoryError):
        return Difference(path, "missing", f"expected {expected.size} bytes")
    if not stat.S_ISREG(status.st_mode):
        return Difference(path, "type", "not a regular file")
    if status.st_size != expected.size:
        return Difference(path, "size", f"expected {expected.size} bytes, found {status.st_size}")
    if status.st_mode & 0o222:
        return Difference(
            path, "mode", f"writable: expected 0444, found {stat.S_IMODE(status.st_mode):04o}"
        )
    if not full:
        return None
    try:
        found = sha256_file(full_path)
    except (OSError, ArtifactError) as error:
        return Difference(path, "unreadable", str(error))
    if found != expected.sha256:
        return Difference(path, "sha256", f"expected {expected.sha256}, found {found}")
    return None


def _unexpected(folder: str, known: Iterable[str]) -> list[Difference]:
    wanted = set(known)
    differences: list[Difference] = []
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.relpath(os.path.join(root, name), folder)
            full = os.path.join(root, name)
            if os.path.islink(full):
                differences.append(Difference(path, "type", "symbolic link"))
            elif name in files and path not in wanted:
                differences.append(Difference(path, "unexpected", f"not listed in {MANIFEST}"))
    return differences


def verify_folder(
    folder: str,
    digest: str,
    full: bool = True,
    public_key: bytes | None = None,
    expect: tuple[str, str] | None = None,
) -> tuple[Manifest | None, list[Difference]]:
    """Compare a folder with the artifact *digest* and list every difference, not just the first.

    With *full*, every byte is hashed; otherwise sizes, modes and metadata are compared. With
    *public_key*, ``model.sig`` must verify too. *expect* is the (kind, name) the manifest must state.
    """
    if os.path.islink(folder) or not os.path.isdir(folder):
        return None, [Difference(".", "missing", f"{folder} is not a folder")]
    differences: list[Difference] = []
    manifest = _check_metadata(folder, digest, differences)
    if manifest is None:
        return None, differences
    if expect is not None and (manifest.kind, manifest.name) != expect:
        detail = "is a {} of {}, expected a {} of {}".format(manifest.kind, manifest.name, *expect)
        differences.append(Difference(MANIFEST, "invalid", detail))
    pieces = _check_file(folder, PIECES, manifest.pieces, True)
    if pieces is not None:
        differences.append(pieces)
    elif full:
        try:
            check_metalink(read_small(os.path.join(folder, PIECES)), manifest)
        except ArtifactError as error:
            differences.append(Difference(PIECES, "invalid", str(error)))
    differences.extend(_check_signature_file(folder, manifest, public_key))
    ordered = sorted(manifest.files, key=lambda path: -manifest.files[path].size)
    with ThreadPoolExecutor(max_workers=worker_count(len(ordered))) as pool:
        results = pool.map(
            lambda path: _check_file(folder, path, manifest.files[path], full), ordered
        )
        differences.extend(result for result in results if result is not None)
    differences.extend(_unexpected(folder, list(manifest.files) + list(RESERVED)))
    # A listed path that is a symbolic link is found twice, by its type and as a link: say it once.
    unique = {(item.path, item.kind): item for item in reversed(differences)}
    return manifest, sorted(unique.values(), key=lambda item: (item.path, item.kind))


def _check_signature_file(
    folder: str, manifest: Manifest, public_key: bytes | None
) -> list[Difference]:
    path = os.path.join(folder, SIGNATURE)
    if not os.path.lexists(path):
        return [Difference(SIGNATURE, "missing", "the artifact is not signed")]
    if public_key is None:
        return []
    try:
        verify_model_signature(public_key, read_small(path), manifest)
    except (OSError, ArtifactError) as error:
        return [Difference(SIGNATURE, "signature", str(error))]
    return []


# --- writing --------------------------------------------------------------------------------------


def sync_path(path: str) -> None:
    """Flush a file or folder to disk: a rename is only safe after what it names is on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Write a read-only file atomically and durably."""
    temporary = f"{path}.part"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), 0o444)
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_path(os.path.dirname(path) or ".")


def seal_folder(folder: str) -> None:
    """Make a finished artifact read-only and durable: files 0444, folders 0755, all flushed."""
    for root, _unused_folders, files in os.walk(folder):
        os.chmod(root, FOLDER_MODE)
        for name in files:
            path = os.path.join(root, name)
            os.chmod(path, 0o444)
            sync_path(path)
        sync_path(root)


def ensure_folder(path: str) -> None:
    """Create a folder 0755 whatever the umask; flush each new entry."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    ensure_folder(parent)
    os.mkdir(path)
    os.chmod(path, FOLDER_MODE)
    sync_path(parent)


def describe(
    kind: str,
    name: str,
    files: Mapping[str, FileHash],
    source: str = "",
    spdx: str = "",
    tools: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    parents: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
) -> tuple[Manifest, bytes]:
    """Manifest and Metalink for hashed files; the manifest passes the same checks as one received."""
    pieces = metalink_bytes(files)
    manifest = Manifest(
        kind=kind,
        name=name,
        files={path: FileEntry(item.size, item.sha256) for path, item in files.items()},
        pieces=FileEntry(len(pieces), sha256_hex(pieces)),
        source=source,
        license=spdx,
        tools=tools or {},
        parameters=parameters or {},
        evaluation=evaluation or {},
        parents=tuple(parents),
    )
    return parse_manifest(manifest.to_bytes()), pieces
