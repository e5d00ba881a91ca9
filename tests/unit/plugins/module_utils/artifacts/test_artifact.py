# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests, releases, Metalinks and the verification of a directory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.build import describe
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import (
    list_directory,
    seal_directory,
    write_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    FileHash,
    PieceHasher,
    hash_file,
    hash_files,
    sha256_hex,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    FileEntry,
    Manifest,
    parse_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.metalink import (
    check_metalink,
    expand_metalink,
    metalink_bytes,
    parse_metalink,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    ArtifactError,
    check_name,
    check_relative_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.release import (
    Release,
    parse_release,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.signatures import (
    encode_signature,
    verify_model_signature,
    verify_release_signature,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.verify import (
    verify_directory,
)

SHA = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def acceptable(path: str) -> bool:
    try:
        check_relative_path(path)
    except ArtifactError:
        return False
    return True


PATHS = st.lists(TEXT, min_size=1, max_size=3).map("/".join).filter(acceptable)
FILE_HASHES = st.builds(
    FileHash,
    st.integers(min_value=1, max_value=2**50),
    SHA,
    st.lists(SHA, min_size=1, max_size=3).map(tuple),
)


def flat(paths: dict[str, FileHash]) -> bool:
    """No path is a directory of another one."""
    return not any(other.startswith(f"{path}/") for path in paths for other in paths)


FILES = st.dictionaries(PATHS, FILE_HASHES, min_size=1, max_size=5).filter(flat)


def key_pair() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def bundle(key: ec.EllipticCurvePrivateKey, resources: list[dict[str, str]]) -> bytes:
    """What model-signing writes."""
    payload = json.dumps({"predicate": {"resources": resources}}).encode()
    kind = b"application/vnd.in-toto+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps({"dsseEnvelope": envelope}).encode()


def signed(key: ec.EllipticCurvePrivateKey, manifest: Manifest) -> bytes:
    entries = {path: entry.sha256 for path, entry in manifest.files.items()}
    entries["manifest.json"] = manifest.digest
    entries["pieces.meta4"] = manifest.pieces.sha256
    return bundle(
        key, [{"name": n, "algorithm": "sha256", "digest": d} for n, d in sorted(entries.items())]
    )


@pytest.fixture
def directory(tmp_path: Path) -> tuple[Path, str, bytes]:
    """A sealed artifact with two files, its digest and the key it is signed with."""
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "config.json").write_bytes(b"{}\n")
    (work / "sub" / "weights.safetensors").write_bytes(os.urandom(3000))
    files = hash_files(str(work), list_directory(str(work)))
    manifest, pieces = describe("checkpoint", "tiny", files)
    write_file(str(work / "manifest.json"), manifest.to_bytes())
    write_file(str(work / "pieces.meta4"), pieces)
    key, pem = key_pair()
    write_file(str(work / "model.sig"), signed(key, manifest))
    seal_directory(str(work))
    return work, manifest.digest, pem


def kinds(
    directory: Path, digest: str, pem: bytes | None = None, full: bool = True
) -> set[tuple[str, str]]:
    _manifest, differences = verify_directory(str(directory), digest, full, pem)
    return {(item.path, item.kind) for item in differences}


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\\b", "a\nb", "a\x00b",
     ".git/config", "manifest.json", "model.sig", "pieces.meta4", "weights.aria2",
     "a" * 1025, "\ud800", "a\uffff", None, 3],
)  # fmt: skip
def test_unsafe_paths_are_refused(path: object) -> None:
    with pytest.raises(ArtifactError):
        check_relative_path(path)


@given(st.lists(st.one_of(TEXT, st.sampled_from(["..", ".", "", "a"])), max_size=5).map("/".join))
def test_an_accepted_path_stays_in_its_directory(path: str) -> None:
    if acceptable(path):
        joined = os.path.normpath(os.path.join("/store/x", path))
        assert joined == f"/store/x/{path}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "-a", "a b", "a\n", "é", None, 1, "a" * 129]
)
def test_unsafe_names_are_refused(name: object) -> None:
    with pytest.raises(ArtifactError):
        check_name(name, "model")


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ArtifactError, match="link is a symbolic link"):
        list_directory(str(tmp_path))
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="pipe is not a regular file"):
        list_directory(str(tmp_path))


# --- hashing --------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(min_value=1, max_value=40))
def test_pieces_are_hashes_of_slices_however_the_bytes_arrive(
    blocks: list[bytes], piece_size: int
) -> None:
    hasher = PieceHasher(piece_size)
    for block in blocks:
        hasher.update(block)
    data = b"".join(blocks)
    pieces = [
        hashlib.sha256(data[i : i + piece_size]).hexdigest()
        for i in range(0, len(data), piece_size)
    ]
    assert hasher.finish() == FileHash(len(data), hashlib.sha256(data).hexdigest(), tuple(pieces))


def test_hashing_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to("secret")
    with pytest.raises(OSError, match="symbolic"):
        hash_file(str(tmp_path / "link"))


# --- manifest -------------------------------------------------------------------------------------


@given(FILES, st.text(max_size=20), st.lists(SHA, max_size=2))
def test_a_manifest_survives_writing_and_reading(
    files: dict[str, FileHash], source: str, parents: list[str]
) -> None:
    source = source.encode("utf-8", "ignore").decode()
    manifest, pieces = describe(
        "graph", "tiny", files, source, parents=parents, parameters={"a": [1, None]}
    )
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert (
        parse_manifest(manifest.to_bytes()).digest
        == hashlib.sha256(manifest.to_bytes()).hexdigest()
    )
    assert check_metalink(pieces, manifest) == files


@given(FILES)
def test_the_digest_does_not_depend_on_order(files: dict[str, FileHash]) -> None:
    backwards = dict(reversed(list(files.items())))
    assert describe("graph", "m", files)[0].digest == describe("graph", "m", backwards)[0].digest


JSON_VALUES = st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)


@given(st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_as_manifest_and_release(data: bytes) -> None:
    for parse in (parse_manifest, parse_release):
        with pytest.raises(ArtifactError):
            parse(data)


def valid() -> dict[str, object]:
    manifest, _pieces = describe("graph", "m", {"a": FileHash(1, "0" * 64, ("0" * 64,))})
    value: dict[str, object] = json.loads(manifest.to_bytes())
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("schema", True),
        ("kind", "wheel"),
        ("name", "../x"),
        ("source", None),
        ("files", {}),
        ("files", {"/a": {"size": 1, "sha256": "0" * 64}}),
        ("files", {"a": {"size": -1, "sha256": "0" * 64}}),
        ("files", {"a": {"size": True, "sha256": "0" * 64}}),
        ("files", {"a": {"size": 1, "sha256": "0" * 63}}),
        ("files", {"a": {"size": 1, "sha256": "A" * 64}}),
        ("files", {"a": {"size": 1}}),
        ("files", {"a": {"size": 1, "sha256": "0" * 64}, "a/b": {"size": 1, "sha256": "0" * 64}}),
        ("parents", ["x"]),
        ("parents", {}),
        ("tools", []),
        ("pieces", None),
        ("extra", 1),
    ],
)
def test_a_manifest_with_one_wrong_value_is_refused(key: str, value: object) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(json.dumps({**valid(), key: value}).encode())


# --- release --------------------------------------------------------------------------------------


def test_a_release_survives_and_is_refused_under_another_name() -> None:
    release = Release("tiny", "1.0.0", "a" * 64, {"fp32": "b" * 64})
    assert parse_release(release.to_bytes(), "tiny", "1.0.0") == release
    with pytest.raises(ArtifactError, match=r"version '1\.0\.0', not '2\.0\.0'"):
        parse_release(release.to_bytes(), "tiny", "2.0.0")
    assert release.artifacts() == [("checkpoint", "a" * 64), ("graph", "b" * 64)]
    assert release.artifacts(["graph"]) == [("graph", "b" * 64)]


def test_release_signature() -> None:
    key, pem = key_pair()
    signature = encode_signature(key.sign(b"data", ec.ECDSA(hashes.SHA256())))
    verify_release_signature(pem, b"data", signature)
    for data, sig, public in (
        (b"Data", signature, pem),
        (b"data", b"%%%", pem),
        (b"data", b"AAAA", pem),
        (b"data", signature, key_pair()[1]),
    ):
        with pytest.raises(ArtifactError):
            verify_release_signature(public, data, sig)
    with pytest.raises(ArtifactError, match="not a PEM public key"):
        verify_release_signature(b"no key", b"data", signature)


# --- Metalink -------------------------------------------------------------------------------------


@given(FILES)
def test_expansion_gives_each_file_one_url_per_source(files: dict[str, FileHash]) -> None:
    urls = ["https://10.0.0.1:8443/x/", "https://10.0.0.2:8443/x"]
    data = expand_metalink(files, urls)
    assert parse_metalink(data) == files
    assert (
        data.count(b"<url>https://10.0.0.1:8443/x/")
        == data.count(b"<url>https://10.0.0.2:8443/x/")
        == len(files)
    )


def test_a_metalink_that_is_not_pinned_or_lists_other_files_is_refused() -> None:
    files = {"a": FileHash(1, "0" * 64, ("0" * 64,))}
    manifest, pieces = describe("graph", "m", files)
    with pytest.raises(ArtifactError, match="not the one"):
        check_metalink(pieces + b" ", manifest)
    other = metalink_bytes({"b": files["a"]})
    pinned = Manifest("graph", "m", manifest.files, FileEntry(len(other), sha256_hex(other)))
    with pytest.raises(ArtifactError, match="different files"):
        check_metalink(other, pinned)
    with pytest.raises(ArtifactError, match="document type"):
        parse_metalink(b'<!DOCTYPE x [<!ENTITY a "b">]><metalink/>')


# --- verification ---------------------------------------------------------------------------------


def test_a_sealed_artifact_verifies(directory: tuple[Path, str, bytes]) -> None:
    path, digest, pem = directory
    assert kinds(path, digest, pem) == set()
    assert {oct(item.stat().st_mode & 0o777) for item in path.rglob("*") if item.is_file()} == {
        "0o444"
    }


def test_every_difference_is_listed(directory: tuple[Path, str, bytes]) -> None:
    path, digest, pem = directory
    weights = path / "sub" / "weights.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[1500] ^= 1
    weights.write_bytes(data)
    weights.chmod(0o444)
    (path / "config.json").unlink()
    (path / "extra").write_text("x")
    (path / "link").symlink_to("extra")
    assert kinds(path, digest, pem) == {
        ("sub/weights.safetensors", "sha256"),
        ("config.json", "missing"),
        ("extra", "unexpected"),
        ("link", "type"),
    }
    assert ("sub/weights.safetensors", "sha256") not in kinds(path, digest, pem, full=False)


def test_a_listed_file_may_not_be_a_link_truncated_or_writable(
    directory: tuple[Path, str, bytes],
) -> None:
    path, digest, pem = directory
    config = path / "config.json"
    config.rename(path.parent / "elsewhere")
    config.symlink_to(path.parent / "elsewhere")
    assert kinds(path, digest, pem) == {("config.json", "type")}
    config.unlink()
    config.write_bytes(b"{}")
    assert kinds(path, digest, pem) == {("config.json", "size")}
    config.write_bytes(b"{}\n")
    assert kinds(path, digest, pem) == {("config.json", "mode")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("manifest.json", ("manifest.json", "sha256")),
        ("pieces.meta4", ("pieces.meta4", "size")),
        ("model.sig", ("model.sig", "signature")),
    ],
)
def test_changed_metadata_is_found(
    directory: tuple[Path, str, bytes], name: str, expected: tuple[str, str]
) -> None:
    path, digest, pem = directory
    (path / name).chmod(0o644)
    (path / name).write_bytes(b"{" + (path / name).read_bytes())
    (path / name).chmod(0o444)
    assert expected in kinds(path, digest, pem)
    (path / name).unlink()
    assert (name, "missing") in kinds(path, digest, pem)


def test_a_signature_by_another_key_or_over_other_files_is_refused(
    directory: tuple[Path, str, bytes],
) -> None:
    path, digest, _pem = directory
    other_key, other_pem = key_pair()
    assert kinds(path, digest, other_pem) == {("model.sig", "signature")}
    manifest = parse_manifest((path / "manifest.json").read_bytes())
    verify_model_signature(other_pem, signed(other_key, manifest), manifest)
    with pytest.raises(ArtifactError, match="other files"):
        verify_model_signature(other_pem, bundle(other_key, []), manifest)


def test_an_artifact_of_another_model_is_refused(directory: tuple[Path, str, bytes]) -> None:
    path, digest, pem = directory
    _manifest, differences = verify_directory(str(path), digest, True, pem, ("checkpoint", "other"))
    assert [str(item) for item in differences] == [
        "manifest.json: invalid (is a checkpoint of tiny, expected a checkpoint of other)"
    ]


def test_writing_replaces_atomically_and_read_only(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(str(target), b"one")
    write_file(str(target), b"two")
    assert target.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]
    assert target.stat().st_mode & 0o777 == 0o444
