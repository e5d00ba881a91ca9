"""The releases that the service loads, verified by the code that the collection verifies with.

The chain: release.json.sig -> release.json -> digest of the graph -> manifest.json and model.sig ->
every file. What may be in each is decided by the package artifacts; here its errors become ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepseek_serving.artifacts.files import read_small
from deepseek_serving.artifacts.hashing import sha256_hex
from deepseek_serving.artifacts.manifest import Manifest, parse_manifest
from deepseek_serving.artifacts.names import (
    MANIFEST,
    ArtifactError,
    artifact_path,
    check_name,
    release_path,
)
from deepseek_serving.artifacts.release import Release as ReleaseRecord
from deepseek_serving.artifacts.release import parse_release
from deepseek_serving.artifacts.signatures import verify_release_signature
from deepseek_serving.artifacts.verify import Difference, verify_directory
from deepseek_serving.errors import VerificationError

PULL_AGAIN = "pull the artifact again"
# Of many, the first say enough.
MOST_DIFFERENCES = 5
WORDS = {
    "sha256": "changed after signing",
    "size": "changed after signing",
    "unexpected": "in the directory, and not in its manifest",
    "mode": "not read-only",
    "signature": "not accepted",
}


@dataclass(frozen=True)
class Release:
    """A verified release: the key vouches for every byte in the directory of what is served.

    That is a graph, or the checkpoint where an upstream runs it; `digest` is the directory's.
    """

    model: str
    version: str
    digest: str
    graph: Path

    @property
    def header(self) -> str:
        return f"{self.model}/{self.version}@{self.digest[:12]}"


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into VerificationError, which names it."""
    try:
        yield
    except ArtifactError as error:
        raise VerificationError(f"{path}: {error}") from error
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}") from error


def read_file(path: Path) -> bytes:
    """A small file's bytes. Raises VerificationError, also for a symbolic link."""
    with _refusals(path):
        return read_small(str(path))


def _key(path: Path) -> bytes:
    with _refusals(path):
        return path.read_bytes()


def _words(directory: Path, differences: Sequence[Difference]) -> str:
    said = [
        f"{directory / item.path}: {WORDS.get(item.kind, item.kind)} ({item.detail})"
        for item in differences[:MOST_DIFFERENCES]
    ]
    more = len(differences) - len(said)
    return "; ".join([*said, *([f"and {more} more"] if more else []), PULL_AGAIN])


def verify_artifact(
    directory: Path,
    public_key: Path,
    digest: str | None = None,
    *,
    expect: tuple[str, str] | None = None,
) -> Manifest:
    """Check an artifact's manifest, files and signature. Raises VerificationError.

    `digest` is the SHA-256 that its manifest must have, `expect` the kind and name that the
    manifest must state; None where any is right.
    """
    key = _key(public_key)
    if digest is None:
        digest = sha256_hex(read_file(directory / MANIFEST))
    with _refusals(directory):
        manifest, differences = verify_directory(
            str(directory), digest, public_key=key, expect=expect
        )
    if manifest is None or differences:
        raise VerificationError(f"{_words(directory, differences)} (public key: {public_key})")
    return manifest


def read_manifest(directory: Path, digest: str) -> Manifest:
    """The manifest with that SHA-256, of files that are not read. Raises VerificationError."""
    path = directory / MANIFEST
    data = read_file(path)
    actual = sha256_hex(data)
    if actual != digest:
        raise VerificationError(
            f"{path}: changed after signing (expected {digest}, found {actual}); {PULL_AGAIN}"
        )
    with _refusals(path):
        return parse_manifest(data)


def read_pinned(directory: Path, manifest: Manifest, name: str) -> bytes:
    """A file's bytes, if they are the ones that the manifest names. Raises VerificationError."""
    path = directory / name
    with _refusals(path):
        data = path.read_bytes()
    actual, entry = sha256_hex(data), manifest.files.get(name)
    if entry is None or actual != entry.sha256:
        expected = "none" if entry is None else entry.sha256
        raise VerificationError(
            f"{path}: changed after signing: SHA-256 is {actual}, the manifest says {expected}; "
            "pull the artifact again, or build it again"
        )
    return data


def _signed(store: Path, name: str, version: str, public_key: Path) -> tuple[Path, ReleaseRecord]:
    """A release's record, with the path for messages, once its signature is verified."""
    for value, what in ((name, "the model's name"), (version, "the version")):
        with _refusals(store):
            check_name(value, what)
    path = Path(release_path(str(store), name, version))
    data, signature = read_file(path), read_file(path.with_name(path.name + ".sig"))
    key = _key(public_key)
    with _refusals(path):
        try:
            verify_release_signature(key, data, signature)
        except ArtifactError as error:
            raise VerificationError(
                f"{path}: {error} {public_key}: it was changed after signing, or signed with "
                "another key"
            ) from error
        return path, parse_release(data, name, version)


def verify_release(
    store: Path, name: str, version: str, public_key: Path, graph: str = "fp32"
) -> Release:
    """Follow the chain from the release's signature down to the graph's files.

    Raises VerificationError.
    """
    path, release = _signed(store, name, version, public_key)
    digest = release.graphs.get(graph)
    if digest is None:
        named = ", ".join(sorted(release.graphs)) or "none"
        raise VerificationError(f"{path}: names no {graph} graph (it names: {named})")
    directory = Path(artifact_path(str(store), "graph", name, digest))
    verify_artifact(directory, public_key, digest, expect=("graph", name))
    return Release(model=name, version=version, digest=digest, graph=directory)


def verify_checkpoint(store: Path, name: str, version: str, public_key: Path) -> Release:
    """Follow the chain from the release's signature down to the checkpoint's manifest.

    Its files are for an upstream to load, and are verified before that one starts. Raises
    VerificationError.
    """
    _path, release = _signed(store, name, version, public_key)
    directory = Path(artifact_path(str(store), "checkpoint", name, release.checkpoint))
    manifest = read_manifest(directory, release.checkpoint)
    if (manifest.kind, manifest.name) != ("checkpoint", name):
        raise VerificationError(
            f"{directory / MANIFEST}: is a {manifest.kind} of {manifest.name}, expected a "
            f"checkpoint of {name}"
        )
    return Release(model=name, version=version, digest=release.checkpoint, graph=directory)
