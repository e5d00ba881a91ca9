# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What earlier code wrote in schema 1, today's reads, verifies and writes in the same bytes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.build import describe
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    PIECE_SIZE,
    hash_files,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    SCHEMA,
    parse_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.release import parse_release
from ansible_collections.onprem.deepseek.plugins.module_utils.store import engines, retire
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    METADATA_LIMIT,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import inspect_replica

ROOT = Path(__file__).resolve().parents[5]
GOLDEN = ROOT / "tests/fixtures/store_schema_1"
FORMAT = ROOT / "docs/reference/artifact_format.md"
CHECKPOINT = "a298a0551b375725e8f2305c14aeaae5e7ed55fc7171bba4fbbac6e8a2f0c43b"
FP32 = "7e9ae821f999e89c0ff9e872a2e44bc942d0ab8d97faea9a925cb7ded3728437"
INT8 = "214a752bb645de829a873175bed91530b23ca3fe81aad7949c9fe6cf1b98e353"
ENGINE = "86f25515198adae52eacb0449c842c9e204773d20197eb761c2caa69bdd4ce3c"
ARTIFACTS = [("checkpoint", CHECKPOINT), ("graph", FP32), ("graph", INT8), ("engine", ENGINE)]

every_artifact = pytest.mark.parametrize(("kind", "digest"), ARTIFACTS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy with the modes that a store has, which git does not keep."""
    copy = shutil.copytree(GOLDEN / "store", tmp_path / "store")
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    return copy


@pytest.fixture
def public_key() -> bytes:
    return (GOLDEN / "release.pub").read_bytes()


def request(store: Path, public_key: bytes) -> Request:
    return Request(str(store), "tiny", "1.0.0", public_key)


def test_the_release_and_every_byte_below_it_verify(store: Path, public_key: bytes) -> None:
    found = inspect_replica(request(store, public_key))
    assert found.complete, found.problem
    assert [(item.kind, item.digest) for item in found.artifacts] == [
        ("checkpoint", CHECKPOINT),
        *sorted([("graph", FP32), ("graph", INT8)]),
    ]
    assert found.release is not None
    assert found.release.graphs == {"fp32": FP32, "int8": INT8}


def test_the_engine_verifies(store: Path, public_key: bytes) -> None:
    wanted = engines.Wanted("tiny", ENGINE, INT8, public_key)
    manifest, problems = wanted.verify(str(store / "engine/tiny" / ENGINE))
    assert problems == []
    assert manifest is not None
    assert manifest.tools == {"onnxruntime": "1.31.0"}


def test_a_changed_byte_is_found(store: Path, public_key: bytes) -> None:
    damaged = store / "graph/tiny" / INT8 / "decoder.onnx"
    damaged.chmod(0o644)
    damaged.write_bytes(b"graph INT8\n")
    damaged.chmod(0o444)
    found = inspect_replica(request(store, public_key))
    assert [str(problem)[:20] for item in found.artifacts for problem in item.problems] == [
        "decoder.onnx: sha256"
    ]


@every_artifact
def test_the_same_files_give_the_same_manifest_and_pieces(
    store: Path, kind: str, digest: str
) -> None:
    directory = store / kind / "tiny" / digest
    data = (directory / "manifest.json").read_bytes()
    was = parse_manifest(data)
    hashed = hash_files(str(directory), list(was.files))
    manifest, pieces = describe(
        kind,
        "tiny",
        hashed,
        source=was.source,
        spdx=was.license,
        tools=was.tools,
        parameters=was.parameters,
        parents=was.parents,
        evaluation=was.evaluation,
    )
    assert manifest.to_bytes() == data
    assert pieces == (directory / "pieces.meta4").read_bytes()
    if kind != "engine":
        assert manifest.digest == digest


def test_the_release_is_written_in_the_same_bytes(store: Path) -> None:
    data = (store / "releases/tiny/1.0.0.json").read_bytes()
    assert parse_release(data, "tiny", "1.0.0").to_bytes() == data


def test_what_was_retired_stays_so(store: Path, public_key: bytes) -> None:
    again = retire.retire(retire.Retirement(str(store), "tiny", "0.9.0", public_key, ["1.0.0"]))
    assert (again.changed, again.removed) == (False, [])


@every_artifact
def test_no_file_of_the_fixture_is_missing_in_git(kind: str, digest: str) -> None:
    """A pattern of .gitignore could leave a file out, which would look as a fault of the code."""
    directory = GOLDEN / "store" / kind / "tiny" / digest
    files = json.loads((directory / "manifest.json").read_bytes())["files"]
    lacking = [
        name
        for name in [*files, "manifest.json", "pieces.meta4", "model.sig"]
        if not (directory / name).is_file()
    ]
    assert lacking == []


def test_the_document_has_every_key_and_limit() -> None:
    text = FORMAT.read_text(encoding="utf-8")
    manifest = json.loads((GOLDEN / f"store/graph/tiny/{INT8}/manifest.json").read_bytes())
    release = json.loads((GOLDEN / "store/releases/tiny/1.0.0.json").read_bytes())
    for heading, keys in (("Manifest", manifest), ("Release", release)):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(keys)
    assert f"({PIECE_SIZE:,} bytes)" in text
    assert METADATA_LIMIT == 64 * 2**20
    assert "at most 64 MiB each" in text
    assert f"schema {SCHEMA}" in text
