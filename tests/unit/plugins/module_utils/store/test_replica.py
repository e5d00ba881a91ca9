# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish on one host, pull on others: real nginx and aria2 on the loopback interface, real TLS."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import errno
import hashlib
import ipaddress
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.build import describe
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import list_directory
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    PIECE_SIZE,
    FileHash,
    hash_file,
    sha256_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    canonical_json,
    parse_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    RESERVED,
    ArtifactError,
    artifact_path,
    release_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.release import Release
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.files import (
    CheckpointError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.common.commands import (
    Completed,
    Run,
    run_command,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store import aria2
from ansible_collections.onprem.deepseek.plugins.module_utils.store import engines as engine
from ansible_collections.onprem.deepseek.plugins.module_utils.store import mounted as mounted_stores
from ansible_collections.onprem.deepseek.plugins.module_utils.store import publish as publishing
from ansible_collections.onprem.deepseek.plugins.module_utils.store.aria2 import shares_of
from ansible_collections.onprem.deepseek.plugins.module_utils.store.lock import store_lock
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    Credentials,
    Replica,
    ReplicaError,
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish, summary
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan, Tools
from ansible_collections.onprem.deepseek.plugins.module_utils.store.replica import ensure_replica
from ansible_collections.onprem.deepseek.plugins.module_utils.store.sources import (
    Sources,
    https_fetcher,
    replicas,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
    read_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    ArtifactWriter,
    PublishError,
)

SMALL = 200_000
PIECE = PIECE_SIZE
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
        self.checked: list[str] = []
        self.unreadable = ""
        self.unlike: list[str] = []

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def sign_directory(self, folder: str) -> None:
        digests = {
            path: hash_file(os.path.join(folder, path)).sha256 for path in list_directory(folder)
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
            self.sign_directory,
            self.sign,
            self.check,
        )

    def check(self, checkpoint: str) -> list[str]:
        """What deepseek-check does, or refuse as it does."""
        self.checked.append(checkpoint)
        if self.unreadable:
            raise CheckpointError(self.unreadable)
        return self.unlike

    def prepare(self, source: str, out: str, precision: Precision) -> None:
        """Write what deepseek-prepare does, or refuse as its gate does."""
        self.prepared.append(precision.name)
        read_manifest(source, Path(source).name)
        if self.gate:
            raise PublishError(f"deepseek-prepare: accuracy gate failed: {precision.name}")
        os.mkdir(out)
        Path(out, "decoder.onnx").write_bytes(self.graph + precision.name.encode())
        read = {what: {"sha256": sha256_file(path)} for what, path in precision.texts.items()}
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


def test_publish_writes_signed_artifacts_and_a_signed_release(plan: Plan, signer: Signer) -> None:
    done = publish(plan, signer.tools())
    assert done.changed
    assert done.release is not None
    assert "no graph of checkpoint" in done.rebuild_reason
    found = inspect_replica(Request(plan.store, "tiny", "1.0.0", signer.pem))
    assert found.complete
    assert found.digest == summary(plan, done)["sha256"]
    graph = read_manifest(found.artifacts[1].path, found.artifacts[1].digest)
    assert graph.parents == (done.release.checkpoint,)
    assert graph.tools == signer.versions
    assert graph.parameters == {
        "opset": 24,
        "arguments": {"max_len": None, "slots": None, "precision": "fp32"},
    }


def test_the_same_bytes_again_change_nothing(plan: Plan, signer: Signer) -> None:
    publish(plan, signer.tools())
    before = tree(plan.store)
    again = publish(plan, signer.tools())
    assert (again.changed, again.actions, again.rebuild_reason, signer.exports) == (
        False,
        [],
        "",
        1,
    )
    assert tree(plan.store) == before


def test_check_mode_says_what_would_be_done_and_does_nothing(plan: Plan, signer: Signer) -> None:
    done = publish(plan, signer.tools(), check_mode=True)
    assert done.changed
    assert [action.split()[0] for action in done.actions] == ["write", "export", "write"]
    assert not os.path.exists(plan.store)
    publish(plan, signer.tools())
    assert not publish(plan, signer.tools(), check_mode=True).changed


@pytest.mark.parametrize(
    "change", [{"source": "elsewhere"}, {"license": "MIT"}, {"max_len": 64}, {"slots": 2}]
)
def test_the_same_version_made_differently_is_refused(
    plan: Plan, signer: Signer, change: dict[str, object]
) -> None:
    publish(plan, signer.tools())
    before = tree(plan.store)
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=next(iter(change)) + ".*new version"):
            publish(dataclasses.replace(plan, **change), signer.tools(), check_mode)  # type: ignore[arg-type]
    assert tree(plan.store) == before


def test_the_same_version_with_other_bytes_is_refused_by_name(plan: Plan, signer: Signer) -> None:
    publish(plan, signer.tools())
    overwrite(Path(plan.checkpoint, "model.safetensors"), 500, b"other")
    with pytest.raises(PublishError, match=r"changed: model\.safetensors.*new version"):
        publish(plan, signer.tools())
    done = publish(dataclasses.replace(plan, version="1.1.0"), signer.tools())
    assert done.changed


def test_a_new_version_of_the_same_checkpoint_uses_what_is_there(
    plan: Plan, signer: Signer
) -> None:
    publish(plan, signer.tools())
    done = publish(dataclasses.replace(plan, version="1.0.1"), signer.tools())
    assert done.actions == ["wrote release tiny/1.0.1"]
    assert signer.exports == 1


def test_new_tools_keep_a_published_version_and_rebuild_a_new_one(
    plan: Plan, signer: Signer
) -> None:
    publish(plan, signer.tools())
    signer.versions = {"onnx": "1.20.0"}
    kept = publish(plan, signer.tools())
    assert not kept.changed
    assert "onnx was 1.19.0, is 1.20.0" in kept.warnings[0]
    done = publish(dataclasses.replace(plan, version="1.0.1"), signer.tools())
    assert done.rebuild_reason == "onnx was 1.19.0, is 1.20.0"
    assert signer.exports == 2


def test_an_interrupted_publish_publishes_nothing_and_is_resumed(
    plan: Plan, signer: Signer
) -> None:
    def interrupted(_folder: str, _out: str) -> None:
        raise PublishError("no more power")

    with pytest.raises(PublishError, match="power"):
        publish(plan, dataclasses.replace(signer.tools(), export=interrupted))
    assert list_releases(plan.store) == []
    leftover = Path(plan.store, "graph", "tiny", ".publish-old")
    leftover.mkdir()
    done = publish(plan, signer.tools())
    assert [action.split()[0] for action in done.actions] == ["exported", "wrote"]
    assert not leftover.exists()


def test_a_checkpoint_with_problems_is_refused_before_anything_is_written(
    plan: Plan, signer: Signer
) -> None:
    Path(plan.checkpoint, "tokenizer.json").unlink()
    with pytest.raises(PublishError, match=r"tokenizer\.json: the file is missing"):
        publish(plan, signer.tools())
    assert not os.path.exists(plan.store)


def test_what_the_service_cannot_read_is_refused_before_a_version_is_used_up(
    plan: Plan, signer: Signer
) -> None:
    signer.unreadable = "tokenizer_config.json: the chat template is wrong"
    for check_mode in (True, False):
        with pytest.raises(
            PublishError, match=r"cannot be published: .* the chat template is wrong"
        ):
            publish(plan, signer.tools(), check_mode)
    assert not os.path.exists(plan.store)
    signer.unreadable, signer.unlike = "", ["two programs read it differently"]
    assert publish(plan, signer.tools()).warnings == signer.unlike
    # a published version never changes, and is not judged again by other tools
    signer.unreadable = "it would be refused now"
    assert not publish(plan, signer.tools()).changed
    assert signer.checked == [plan.checkpoint] * 3


def test_a_large_half_downloaded_checkpoint_is_read_through_before_a_version_is_used_up(
    plan: Plan, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [2**21], "data_offsets": [0, 2**21]}})
    data = struct.pack("<Q", len(header)) + header.encode() + b"x" * 100 + bytes(2**21 - 100)
    Path(plan.checkpoint, "model.safetensors").write_bytes(data)
    for module in (checkpoint, publishing):
        monkeypatch.setattr(module, "READ_LIMIT", 0)
    with pytest.raises(PublishError, match="tensor w has over 1048576 zeros in a row"):
        publish(plan, signer.tools())
    assert signer.checked == []
    accepted = dataclasses.replace(plan, zero_tensors=["w"])
    assert publish(accepted, signer.tools()).changed


def test_what_is_not_as_its_publisher_says_is_refused_before_anything_is_written(
    plan: Plan, signer: Signer, tmp_path: Path
) -> None:
    names = sorted(path.name for path in Path(plan.checkpoint).iterdir())
    right = "".join(f"{sha256_file(f'{plan.checkpoint}/{name}')}  {name}\n" for name in names)
    path = tmp_path / "SHA256SUMS"
    path.write_text(right)
    plan = dataclasses.replace(plan, checksums=str(path))
    overwrite(Path(plan.checkpoint, "model.safetensors"), 500, b"#")
    Path(plan.checkpoint, "tokenizer.json").write_text('{"other": 1}')
    for check_mode in (True, False):
        with pytest.raises(
            PublishError, match=r"model\.safetensors: its SHA-256 .*tokenizer\.json"
        ):
            publish(plan, signer.tools(), check_mode)
    assert not os.path.exists(plan.store)
    path.write_text(
        "".join(f"{sha256_file(f'{plan.checkpoint}/{name}')}  {name}\n" for name in names)
    )
    assert publish(plan, signer.tools()).changed


def test_a_changed_release_file_is_never_signed_again(plan: Plan, signer: Signer) -> None:
    publish(plan, signer.tools())
    path = Path(release_path(plan.store, "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    with pytest.raises(PublishError, match="not what was signed"):
        publish(plan, signer.tools())


@pytest.mark.parametrize("name", ["decoder.onnx", "manifest.json", "model.sig"])
def test_a_damaged_graph_is_exported_again_from_the_verified_checkpoint(
    plan: Plan, signer: Signer, name: str
) -> None:
    done = publish(plan, signer.tools())
    assert done.release is not None
    before = tree(plan.store)
    folder = Path(plan.store, "graph", "tiny", done.release.graphs["fp32"])
    overwrite(folder / name, 0, b"#")
    repaired = publish(plan, signer.tools())
    assert repaired.rebuild_reason
    assert {k: v for k, v in tree(plan.store).items() if "model.sig" not in k} == {
        k: v for k, v in before.items() if "model.sig" not in k
    }
    overwrite(folder / "decoder.onnx", 0, b"#")
    signer.graph = b"other tools give other bytes"
    with pytest.raises(PublishError, match="model_replica"):
        publish(plan, signer.tools())


def test_a_damaged_checkpoint_copy_is_written_again(plan: Plan, signer: Signer) -> None:
    done = publish(plan, signer.tools())
    assert done.release is not None
    overwrite(
        Path(plan.store, "checkpoint", "tiny", done.release.checkpoint, "model.safetensors"),
        300,
        b"#",
    )
    assert publish(plan, signer.tools()).actions == [
        f"wrote checkpoint {done.release.checkpoint[:12]}"
    ]
    assert inspect_replica(Request(plan.store, "tiny", "1.0.0", signer.pem)).complete


def test_a_signing_key_that_is_not_the_sites_is_refused(plan: Plan, signer: Signer) -> None:
    with pytest.raises(PublishError, match="release public key belongs to the signing key"):
        publish(plan, Signer().tools())
    assert list_releases(plan.store) == []


def test_publishing_needs_room(plan: Plan, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(PublishError, match="1000 bytes free"):
        publish(plan, signer.tools())


def test_the_source_is_not_touched(plan: Plan, signer: Signer) -> None:
    weights = Path(plan.checkpoint, "model.safetensors")
    weights.chmod(0o640)
    publish(plan, signer.tools())
    assert weights.stat().st_mode & 0o777 == 0o640
    assert weights.stat().st_nlink == 1


# --- precisions -----------------------------------------------------------------------------------


@pytest.fixture
def prepared(plan: Plan, tmp_path: Path) -> Plan:
    """The same release in two more precisions."""
    held_out, calibration = tmp_path / "held-out.jsonl", tmp_path / "calibration.jsonl"
    held_out.write_text('"held out"\n')
    calibration.write_text('"seen"\n')
    precisions = (
        Precision("fp16", str(held_out)),
        Precision("int8", str(held_out), str(calibration), min_top1_agreement=0.9),
    )
    return dataclasses.replace(plan, precisions=precisions)


def test_each_precision_is_a_graph_made_from_the_exported_one(
    prepared: Plan, signer: Signer
) -> None:
    done = publish(prepared, signer.tools())
    assert [action.partition(" graph")[0] for action in done.actions] == [
        done.actions[0],
        "exported fp32",
        "prepared fp16",
        "prepared int8",
        "wrote release tiny/1.0.0",
    ]
    assert "; int8: the fp32 graph that it is made from is new" in done.rebuild_reason
    assert done.release is not None
    graphs = done.release.graphs
    assert sorted(graphs) == ["fp16", "fp32", "int8"]
    found = inspect_replica(Request(prepared.store, "tiny", "1.0.0", signer.pem))
    assert found.complete
    assert len(found.artifacts) == 4
    folder = artifact_path(prepared.store, "graph", "tiny", graphs["int8"])
    manifest = read_manifest(folder, graphs["int8"])
    assert manifest.parents == (graphs["fp32"],)
    assert manifest.tools == signer.versions
    assert manifest.evaluation["top1_agreement"] == 0.97
    assert manifest.parameters == {
        "opset": 24,
        "arguments": {
            "precision": "int8",
            "block_size": None,
            "max_perplexity_increase": None,
            "min_top1_agreement": 0.9,
            "max_kl_divergence": None,
        },
        "held_out": sha256_file(prepared.precisions[1].held_out),
        "calibration": sha256_file(str(prepared.precisions[1].calibration)),
    }


def test_precisions_are_made_once(prepared: Plan, signer: Signer) -> None:
    publish(prepared, signer.tools())
    before = tree(prepared.store)
    for check_mode in (True, False):
        again = publish(prepared, signer.tools(), check_mode)
        assert (again.changed, again.actions, again.rebuild_reason) == (False, [], "")
    assert tree(prepared.store) == before
    new = dataclasses.replace(prepared, version="1.0.1", precisions=prepared.precisions[1:])
    assert publish(new, signer.tools()).actions == ["wrote release tiny/1.0.1"]
    assert signer.prepared == ["fp16", "int8"]


def test_check_mode_says_which_precisions_would_be_prepared(prepared: Plan, signer: Signer) -> None:
    predicted = publish(prepared, signer.tools(), check_mode=True)
    assert predicted.actions[2:] == [
        "prepare fp16 graph: the fp32 graph that it is made from is new",
        "prepare int8 graph: the fp32 graph that it is made from is new",
        "write release tiny/1.0.0",
    ]
    assert predicted.release is None
    assert not os.path.exists(prepared.store)
    publish(dataclasses.replace(prepared, precisions=()), signer.tools())
    more = dataclasses.replace(prepared, version="1.1.0")
    predicted = publish(more, signer.tools(), check_mode=True)
    assert [action.partition(":")[0] for action in predicted.actions] == [
        "prepare fp16 graph",
        "prepare int8 graph",
        "write release tiny/1.1.0",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("held_out", "int8: the held_out text was "),
        ("calibration", "int8: the calibration text was "),
        ("threshold", "int8: min_top1_agreement was 0.9, is 0.8"),
        ("tools", "onnx was 1.19.0, is 1.20.0; int8: the fp32 graph that it is made from is new"),
    ],
)
def test_each_thing_that_a_precision_depends_on_makes_it_anew_in_a_new_version(
    prepared: Plan, signer: Signer, change: str, reason: str
) -> None:
    prepared = dataclasses.replace(prepared, precisions=prepared.precisions[1:])
    publish(prepared, signer.tools())
    (int8,) = prepared.precisions
    if change == "tools":
        signer.versions = {"onnx": "1.20.0"}
    elif change == "threshold":
        int8 = dataclasses.replace(int8, min_top1_agreement=0.8)
    else:
        Path(getattr(int8, change)).write_text('"other"\n')
    changed = dataclasses.replace(prepared, precisions=(int8,))
    if change != "tools":
        with pytest.raises(PublishError, match=r"another int8 graph: .*under a new version"):
            publish(changed, signer.tools())
    done = publish(dataclasses.replace(changed, version="1.0.1"), signer.tools())
    assert done.rebuild_reason.startswith(reason)
    assert signer.prepared == ["int8", "int8"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_published_version_keeps_its_precisions(
    prepared: Plan, signer: Signer, count: int
) -> None:
    publish(dataclasses.replace(prepared, precisions=prepared.precisions[:1]), signer.tools())
    other = dataclasses.replace(prepared, precisions=prepared.precisions[: 2 * count])
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=r"already published in fp16, fp32.*new version"):
            publish(other, signer.tools(), check_mode)
    assert signer.prepared == ["fp16"]


def test_a_failed_gate_publishes_nothing_and_leaves_what_was_there(
    prepared: Plan, signer: Signer
) -> None:
    publish(dataclasses.replace(prepared, precisions=()), signer.tools())
    before = tree(prepared.store)
    signer.gate = True
    new = dataclasses.replace(prepared, version="1.1.0")
    with pytest.raises(
        PublishError, match=r"accuracy gate failed: fp16. .*1\.1\.0 is not published"
    ):
        publish(new, signer.tools())
    assert tree(prepared.store) == before
    assert list_releases(prepared.store) == [("tiny", "1.0.0")]


def test_missing_texts_are_refused_with_everything_else_before_anything_is_written(
    prepared: Plan, signer: Signer
) -> None:
    Path(prepared.checkpoint, "tokenizer.json").unlink()
    Path(prepared.precisions[0].held_out).unlink()
    without = (*prepared.precisions, Precision("fp8", prepared.checkpoint + "/config.json"))
    with pytest.raises(PublishError) as refused:
        publish(dataclasses.replace(prepared, precisions=without), signer.tools())
    for said in (
        "tokenizer.json: the file is missing",
        "the held_out text of fp16 cannot be read",
        "fp8: it quantises activations and has no calibration text",
    ):
        assert said in str(refused.value)
    assert not os.path.exists(prepared.store)


@pytest.mark.parametrize("what", ["held_out", "calibration"])
def test_a_text_that_changes_meanwhile_is_refused(
    prepared: Plan, signer: Signer, what: str
) -> None:
    def meanwhile(source: str, out: str, precision: Precision) -> None:
        Path(getattr(prepared.precisions[1], what)).write_text("other")
        signer.prepare(source, out, precision)

    tools = dataclasses.replace(signer.tools(), prepare=meanwhile)
    only = dataclasses.replace(prepared, precisions=prepared.precisions[1:])
    with pytest.raises(PublishError, match="changed while int8 was prepared with it"):
        publish(only, tools)
    assert list_releases(prepared.store) == []


def test_a_damaged_prepared_graph_is_prepared_again(prepared: Plan, signer: Signer) -> None:
    done = publish(prepared, signer.tools())
    assert done.release is not None
    folder = Path(prepared.store, "graph", "tiny", done.release.graphs["int8"])
    overwrite(folder / "decoder.onnx", 0, b"#")
    repaired = publish(prepared, signer.tools())
    assert [action.split()[:2] for action in repaired.actions] == [["prepared", "int8"]]
    assert "int8: the graph" in repaired.rebuild_reason
    assert inspect_replica(Request(prepared.store, "tiny", "1.0.0", signer.pem)).complete


def test_nothing_is_prepared_from_a_damaged_graph(prepared: Plan, signer: Signer) -> None:
    done = publish(dataclasses.replace(prepared, precisions=()), signer.tools())
    assert done.release is not None
    folder = Path(prepared.store, "graph", "tiny", done.release.graphs["fp32"])
    overwrite(folder / "decoder.onnx", 0, b"#")
    new = dataclasses.replace(prepared, version="1.1.0", full=False)
    with pytest.raises(PublishError, match=r"is damaged on this host.*verify=full"):
        publish(new, signer.tools())
    done = publish(dataclasses.replace(new, full=True), signer.tools())
    assert done.actions[0].startswith("exported fp32")


def test_a_host_may_hold_the_graphs_of_some_precisions(prepared: Plan, signer: Signer) -> None:
    done = publish(prepared, signer.tools())
    assert done.release is not None
    request = Request(
        prepared.store, "tiny", "1.0.0", signer.pem, kinds=["graph"], precisions=["int8"]
    )
    (only,) = inspect_replica(request).artifacts
    assert only.digest == done.release.graphs["int8"]
    with pytest.raises(
        ArtifactError, match=r"no graph of precision fp8 \(it has fp16, fp32, int8\)"
    ):
        inspect_replica(dataclasses.replace(request, precisions=["int8", "fp8"]))


# --- a site on the loopback interface -------------------------------------------------------------


@dataclasses.dataclass
class Site:
    """Three sources, a place to pull to, and the means to break things."""

    root: Path
    signer: Signer
    release: Release
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
        self,
        name: str = "host",
        check_mode: bool = False,
        run: Run = run_command,
        **change: object,
    ) -> Replica:
        request, credentials = self.request(**change), self.credentials(name)
        found = inspect_replica(request)
        fetch = https_fetcher(credentials, 2)
        return ensure_replica(request, fetch, run, credentials, found, check_mode)

    def weights(self, root: Path) -> Path:
        return root / "checkpoint" / "tiny" / self.release.checkpoint / "model.safetensors"

    def stop(self, number: int) -> None:
        process = self.processes.pop(number)
        process.terminate()
        process.wait(PATIENCE)


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
    location ~ ^/(releases|engine)/([^/]+/)?$ {{
      autoindex on;
      autoindex_format json;
    }}
  }}
}}
"""


def start_nginx(root: Path, number: int, port: int) -> subprocess.Popen[bytes]:
    config = root / f"nginx{number}.conf"
    config.write_text(
        "user root;\n" * (os.geteuid() == 0) + NGINX.format(root=root, number=number, port=port)
    )
    process = subprocess.Popen(["nginx", "-c", str(config), "-e", str(root / f"error{number}.log")])

    def listens() -> bool:
        assert process.poll() is None, (root / f"error{number}.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    until(listens)
    return process


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
    done = publish(
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


@given(
    sizes=st.dictionaries(st.text(min_size=1), st.integers(0, 10**13), min_size=1),
    number=st.integers(1, 5),
)
def test_files_are_shared_out_evenly_and_none_is_lost(sizes: dict[str, int], number: int) -> None:
    files = {path: FileHash(size, "", ()) for path, size in sizes.items()}
    shares = shares_of(files, number)
    assert len(shares) <= number
    assert all(shares)
    assert sorted(path for share in shares for path in share) == sorted(files)
    totals = [sum(item.size for item in share.values()) for share in shares]
    assert max(totals) <= sum(totals) / number + max(sizes.values())


def test_only_what_one_of_several_could_not_bring_is_asked_for_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aria2, "worker_count", lambda jobs: min(jobs, 4))
    for number in range(3):
        overwrite(site.weights(site.root / f"source{number}"), 1000, b"rotten")
    asked: list[list[str]] = []

    def noting(command: Sequence[str]) -> Completed:
        [metalink] = [word for word in command if word.startswith("--metalink-file=")]
        text = Path(metalink.partition("=")[2]).read_text()
        asked.append(re.findall('file name="([^"]+)"', text))
        return run_command(command)

    with pytest.raises(ReplicaError, match="No source has all pieces right"):
        site.pull(run=noting)
    of_checkpoint = [paths for paths in asked if "decoder.onnx" not in paths]
    first = [paths for paths in of_checkpoint if "model.safetensors" not in paths]
    assert first
    assert of_checkpoint.count(["model.safetensors"]) == 4


def test_pull_and_pull_again(site: Site) -> None:
    assert site.pull(check_mode=True).changed
    assert not (site.root / "here").exists()
    pulled = site.pull()
    assert pulled.changed
    assert pulled.complete
    assert [item.state for item in pulled.artifacts] == ["pulled", "pulled"]
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
    assert [item.state for item in again.artifacts] == ["complete", "complete"]


def test_what_is_mended_may_be_written_by_its_owner_without_more_privileges(site: Site) -> None:
    site.pull()
    overwrite(site.weights(site.root / "here"), 1000, b"rotten")
    modes: list[int] = []

    def looking(command: Sequence[str]) -> Completed:
        (weights,) = (site.root / "here").rglob("*.safetensors")
        modes.append(weights.stat().st_mode & 0o777)
        return run_command(command)

    assert site.pull(run=looking).complete
    assert modes == [0o644]
    assert same(site)


def test_who_else_has_a_release(site: Site) -> None:
    site.stop(0)
    path = Path(release_path(str(site.source(1)), "tiny", "1.0.0"))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    fetch = https_fetcher(site.credentials(), 2)
    sources = Sources(site.request().sources, fetch)
    found = inspect_replica(site.request(store=str(site.source(2))))
    urls = [f"https://127.0.0.1:{port}" for port in site.ports]
    assert replicas(sources, "tiny", "1.0.0", found.digest) == [urls[2]]
    assert "cannot be reached" in sources.problems[urls[0]]
    assert "expected" in sources.problems[urls[1]]


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
    assert list_releases(str(site.root / "here")) == []
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
    assert [item.state for item in repaired.artifacts] == ["repaired", "complete"]
    assert [problem.kind for problem in repaired.artifacts[0].repaired] == ["sha256"]
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
    assert [item.state for item in site.pull().artifacts] == ["repaired", "repaired"]
    assert same(site)
    assert not (graph / "extra").exists()
    for number in (0, 1, 2):
        site.stop(number)
    weights.chmod(0o666)
    (weights.parent / "more").write_text("x")
    assert site.pull().artifacts[0].state == "repaired"
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


@pytest.mark.parametrize("site", [LARGE], indirect=True)
@pytest.mark.parametrize("note", [b"", b"\0\1cut off"])
def test_a_note_that_aria2_could_not_finish_stops_no_later_pull(site: Site, note: bytes) -> None:
    """A full disk leaves half of a file, and a note of its progress that cannot be read."""
    site.pull()
    weights = site.weights(site.root / "here")
    part = weights.parent.rename(f"{weights.parent}.part")
    half = part / weights.name
    half.chmod(0o644)
    os.truncate(half, PIECE + 1000)
    Path(f"{half}.aria2").write_bytes(note)
    if note:
        # Of one source, so that nothing else is tried in this pull.
        with pytest.raises(ReplicaError, match="kept for the next try"):
            site.pull(sources=[f"https://127.0.0.1:{site.ports[0]}"])
    assert site.pull().complete
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
    assert inspect_replica(site.request()).signature == "invalid"
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
    with pytest.raises(ReplicaError, match="not an https or file URL"):
        site.pull(sources=["http://127.0.0.1"])
    with pytest.raises(ReplicaError, match="404"):
        site.pull(version="2.0.0")


def mounted(site: Site, number: int = 1) -> str:
    return f"file://{site.source(number)}"


def test_a_mounted_store_is_a_source(site: Site) -> None:
    pulled = site.pull(sources=[mounted(site)])
    assert pulled.complete
    assert same(site)
    assert [item.state for item in pulled.artifacts] == ["pulled", "pulled"]
    status = site.weights(site.root / "here").stat()
    assert (status.st_nlink, status.st_mode & 0o777) == (1, 0o444)
    assert not site.pull(sources=[mounted(site)]).changed


def test_what_a_mount_has_wrong_comes_from_a_host_or_is_refused(site: Site) -> None:
    overwrite(site.weights(site.source(1)), 500, b"#")
    with pytest.raises(ReplicaError, match=r"Not as they were signed in .*model\.safetensors"):
        site.pull(sources=[mounted(site)])
    assert list_releases(str(site.root / "here")) == []
    assert not site.weights(site.root / "here").exists()
    pulled = site.pull(sources=[mounted(site), mounted(site, 2)])
    assert pulled.complete
    assert same(site)
    shutil.rmtree(site.root / "here")
    assert site.pull(sources=[mounted(site), f"https://127.0.0.1:{site.ports[0]}"]).complete
    assert same(site)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_in_a_mount_is_not_followed(site: Site, name: str) -> None:
    file = site.weights(site.source(1)).with_name(name)
    moved = site.root / "moved"
    file.rename(moved)
    file.symlink_to(moved)
    with pytest.raises(ReplicaError, match="Not as they were signed"):
        site.pull(sources=[mounted(site)])


def test_a_mounted_release_is_judged_by_its_signature(site: Site) -> None:
    path = site.source(1) / "releases" / "tiny" / "1.0.0.json"
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    with pytest.raises(ReplicaError, match="does not verify"):
        site.pull(sources=[mounted(site)])


def test_a_mount_that_is_not_there_is_named(site: Site) -> None:
    (site.root / "empty").mkdir()
    for folder in (site.root / "empty", site.root / "nowhere"):
        with pytest.raises(ReplicaError, match="holds no store; is it mounted"):
            site.pull(sources=[f"file://{folder}"])
        pulled = site.pull(sources=[f"file://{folder}", mounted(site)])
        assert list(pulled.source_problems) == [f"file://{folder}"]
        shutil.rmtree(site.root / "here")
    with pytest.raises(ReplicaError, match=r"it has no releases/tiny/2\.0\.0\.json"):
        site.pull(sources=[mounted(site)], version="2.0.0")


@pytest.mark.parametrize("url", ["file://host/mnt", "file:mnt", "file://", "file:///mnt?x=1"])
def test_a_mount_must_be_an_absolute_path_here(site: Site, url: str) -> None:
    with pytest.raises(ReplicaError, match="absolute path of a directory"):
        site.pull(sources=[url])


def test_a_disk_that_becomes_full_meanwhile_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: str, target: str, _expected: object) -> bool:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mounted_stores, "_copied", full)
        with pytest.raises(ReplicaError, match=r"disk became full.*\.part.*kept for the next try"):
            site.pull(sources=[mounted(site)])
    assert site.pull(sources=[mounted(site)]).complete
    assert same(site)


def test_a_copy_that_rotted_is_mended_from_a_mount(site: Site) -> None:
    site.pull()
    overwrite(site.weights(site.root / "here"), 500, b"#")
    mended = site.pull(sources=[mounted(site)])
    assert [item.state for item in mended.artifacts] == ["repaired", "complete"]
    assert same(site)


def test_room_is_checked_before_anything_is_fetched(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=SMALL))
    with pytest.raises(ReplicaError, match="bytes free"):
        site.pull()
    assert not list((site.root / "here").rglob("*.part"))


# --- engines --------------------------------------------------------------------------------------


def write_build(folder: Path, release: Release, store: str, **key: object) -> Path:
    """What a build of an engine leaves behind."""
    graph = artifact_path(store, "graph", "tiny", release.graphs["fp32"])
    files = read_manifest(graph, release.graphs["fp32"]).files
    folder.mkdir()
    document = {
        "schema": 1,
        "graph": {"decoder.onnx": files["decoder.onnx"].sha256},
        "tensorrt": {"flavour": "tensorrt_rtx", "version": "1.7.1.116"},
        **key,
    }
    (folder / "key.json").write_bytes(canonical_json(document))
    (folder / "engine.plan").write_bytes(random.Random(2).randbytes(SMALL))
    for name in ("golden.json", "inspector.json", "build.log"):
        (folder / name).write_text("{}")
    return folder


@dataclasses.dataclass
class Engines:
    """An engine that is stored at one source, and a host that wants it."""

    site: Site
    build: engine.Build
    key: str

    def source(self, number: int) -> Path:
        return self.site.source(number) / "engine" / "tiny" / self.key

    @property
    def here(self) -> Path:
        return self.site.root / "here" / "engine" / "tiny" / self.key

    def request(self, **change: Any) -> engine.Request:
        wanted = engine.Wanted("tiny", self.key, self.build.graph, self.site.signer.pem)
        request = engine.Request(str(self.site.root / "here"), wanted, self.site.request().sources)
        return dataclasses.replace(request, **change)

    def hold(self, check_mode: bool = False, **change: Any) -> engine.Held:
        credentials = self.site.credentials()
        fetch = https_fetcher(credentials, 2)
        return engine.ensure_engine(
            self.request(**change), fetch, run_command, credentials, check_mode
        )

    def wanted(self, **change: Any) -> engine.Wanted:
        return dataclasses.replace(self.request().wanted, **change)

    def forge(self, number: int, signer: Signer | None = None) -> None:
        """Change the plan at a source, and make metadata that fits, signed or not."""
        folder = self.source(number)
        files = {path: hash_file(str(folder / path)) for path in self.forged(folder)}
        old = parse_manifest((folder / "manifest.json").read_bytes())
        manifest, pieces = describe(old.kind, old.name, files, parents=old.parents)
        for name, data in (("manifest.json", manifest.to_bytes()), ("pieces.meta4", pieces)):
            (folder / name).chmod(0o644)
            (folder / name).write_bytes(data)
        if signer is not None:
            (folder / "model.sig").unlink()
            signer.sign_directory(str(folder))

    def forged(self, folder: Path) -> list[str]:
        overwrite(folder / "engine.plan", 5, b"evil")
        return [path for path in list_directory(str(folder)) if path not in RESERVED]


@pytest.fixture
def engines(site: Site) -> Engines:
    writer = ArtifactWriter(str(site.source(0)), "tiny", site.signer.pem)
    folder = write_build(site.root / "build", site.release, writer.store)
    build = engine.Build(writer, str(folder), site.release.graphs["fp32"])
    stored = engine.store_engine(build, site.signer.sign_directory)
    assert stored.changed
    return Engines(site, build, stored.key)


def test_an_engine_is_stored_once_under_its_key(engines: Engines) -> None:
    build, sign = engines.build, engines.site.signer.sign_directory
    key = Path(build.directory, "key.json").read_bytes()
    assert engines.key == hashlib.sha256(key).hexdigest()
    manifest, problems = engines.wanted().verify(str(engines.source(0)))
    assert problems == []
    assert manifest is not None
    assert manifest.parents == (build.graph,)
    assert manifest.tools == {"tensorrt_rtx": "1.7.1.116"}
    before = tree(engines.source(0))
    Path(build.directory, "engine.plan").write_bytes(b"another build of the same key")
    again = engine.store_engine(build, sign)
    assert (again.changed, again.reason) == (False, "")
    assert tree(engines.source(0)) == before
    overwrite(engines.source(0) / "engine.plan", 7, b"#")
    for check_mode in (True, False):
        replaced = engine.store_engine(build, sign, check_mode)
        assert replaced.changed
        assert "engine.plan: sha256" in replaced.reason
        assert (engines.wanted().verify(str(engines.source(0)))[1] == []) is not check_mode


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("graph", "is of another graph: decoder.onnx is 0000"),
        ("no graph", "names no files of a graph"),
        ("flavour", "names the flavour 'onnx'; known are tensorrt, tensorrt_rtx, onnxruntime"),
        ("no flavour", "names the flavour None"),
        ("spelling", "is not canonical JSON"),
        ("key.json", "key.json cannot be read: .*No such file"),
        ("engine.plan", "engine.plan is missing"),
        ("golden.json", "golden.json is missing"),
        ("digest", "is not in the store: .*Publish the release on this host first"),
    ],
)
def test_a_build_that_is_not_right_is_refused(
    tmp_path: Path, plan: Plan, signer: Signer, spoil: str, says: str
) -> None:
    done = publish(plan, signer.tools())
    assert done.release is not None
    changes: dict[str, dict[str, object]] = {
        "graph": {"graph": {"decoder.onnx": "0" * 64}},
        "no graph": {"graph": {}},
        "flavour": {"tensorrt": {"flavour": "onnx"}},
        "no flavour": {"tensorrt": None},
    }
    folder = write_build(tmp_path / "build", done.release, plan.store, **changes.get(spoil, {}))
    if (folder / spoil).exists():
        (folder / spoil).unlink()
    if spoil == "spelling":
        (folder / "key.json").write_text(json.dumps({"schema": 1}))
    digest = "0" * 64 if spoil == "digest" else done.release.graphs["fp32"]
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=says):
            engine.store_engine(
                engine.Build(plan.writer, str(folder), digest), signer.sign_directory, check_mode
            )
    assert not os.path.exists(os.path.join(plan.store, "engine"))


def test_an_engine_is_pulled_verified_and_left_alone(engines: Engines) -> None:
    predicted = engines.hold(check_mode=True)
    assert (predicted.state, predicted.changed, predicted.found) == ("pulled", True, True)
    assert not (engines.site.root / "here").exists()
    held = engines.hold()
    assert (held.state, held.before, held.copy.problems) == ("pulled", "absent", ())
    assert held.copy.fetched > SMALL
    assert tree(engines.here) == tree(engines.source(0))
    for number in (0, 1, 2):
        engines.site.stop(number)
    again = engines.hold()
    assert (again.state, again.changed, again.reason) == ("present", False, "")


@pytest.mark.parametrize("name", ["engine.plan", "key.json", "manifest.json", "model.sig"])
def test_a_damaged_engine_is_repaired(engines: Engines, name: str) -> None:
    engines.hold()
    overwrite(engines.here / name, 30, b"#")
    assert engines.hold(check_mode=True).state == "repaired"
    held = engines.hold()
    assert (held.state, held.before) == ("repaired", "damaged")
    assert held.reason
    assert tree(engines.here) == tree(engines.source(0))


def test_modes_and_strangers_are_mended_without_a_source(engines: Engines) -> None:
    engines.hold()
    (engines.here / "engine.plan").chmod(0o644)
    (engines.here / "stranger").touch()
    held = engines.hold(sources=())
    assert (held.state, held.copy.fetched) == ("repaired", 0)
    assert tree(engines.here) == tree(engines.source(0))


def test_an_engine_that_nobody_has_is_absent(engines: Engines) -> None:
    shutil.rmtree(engines.source(0).parent)
    for check_mode in (True, False):
        held = engines.hold(check_mode)
        assert (held.state, held.changed, held.found) == ("absent", False, False)
    assert not (engines.site.root / "here").exists()
    assert "answered 404" in engine.missing_message(engines.request(), held)


def test_a_damaged_engine_that_nobody_has_is_not_found(engines: Engines) -> None:
    engines.hold()
    overwrite(engines.here / "engine.plan", 30, b"#")
    held = engines.hold(sources=())
    assert (held.state, held.changed, held.before) == ("absent", False, "damaged")
    message = engine.missing_message(engines.request(sources=()), held)
    assert "engine.plan: sha256" in message
    assert "no sources are configured" in message


def test_another_engine_under_this_key_is_refused(engines: Engines) -> None:
    """Signed by the site, whole, and not what was asked for."""
    other = "e" * 64
    shutil.copytree(engines.source(0), engines.source(0).with_name(other))
    held = engines.hold(wanted=engines.wanted(key=other))
    assert held.state == "absent"
    (said,) = [text for text in held.source_problems.values() if "404" not in text]
    assert f"it hashes to {engines.key}, expected {other}" in said
    held = engines.hold(wanted=engines.wanted(graph="f" * 64))
    assert held.state == "absent"
    assert any("expected from graph ffff" in text for text in held.source_problems.values())


def test_a_graph_is_no_engine(engines: Engines) -> None:
    graph = engines.site.source(0) / "graph" / "tiny" / engines.build.graph
    shutil.rmtree(engines.source(0))
    shutil.copytree(graph, engines.source(0))
    held = engines.hold()
    assert held.state == "absent"
    assert any("is of a graph of tiny" in text for text in held.source_problems.values())


def test_a_forged_engine_is_refused_and_another_source_is_used(engines: Engines) -> None:
    for number in (1, 2):
        shutil.copytree(engines.source(0), engines.source(number))
    engines.forge(0)
    engines.forge(1, Signer())
    held = engines.hold()
    assert held.state == "pulled"
    assert len(held.source_problems) == 2
    assert tree(engines.here) == tree(engines.source(2))
    shutil.rmtree(engines.here)
    engines.forge(2)
    held = engines.hold()
    assert held.state == "absent"
    assert all("model.sig" in text for text in held.source_problems.values())


def test_a_forged_engine_on_this_host_is_replaced(engines: Engines) -> None:
    engines.hold()
    good = tree(engines.here)
    shutil.copytree(engines.source(0), engines.source(1))
    engines.forge(1, Signer())
    shutil.rmtree(engines.here)
    shutil.move(engines.source(1), engines.here)
    assert "does not verify" in str(engines.wanted().verify(str(engines.here))[1][0])
    assert engines.hold().state == "repaired"
    assert tree(engines.here) == good


def test_two_builds_of_one_key_are_not_mixed(engines: Engines) -> None:
    shutil.copytree(engines.source(0), engines.source(1))
    engines.forge(1, engines.site.signer)
    held = engines.hold()
    assert held.state == "pulled"
    assert tree(engines.here) == tree(engines.source(0))


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        store_lock(str(tmp_path)),
        pytest.raises(ReplicaError, match="holds"),
        store_lock(str(tmp_path), 0.3),
    ):
        pass
    with store_lock(str(tmp_path), 0):
        pass


@pytest.mark.parametrize(
    ("model", "version"), [("../x", "1"), ("m", "../1"), ("", "1"), ("m", "a/b")]
)
def test_names_cannot_leave_the_store(model: str, version: str) -> None:
    with pytest.raises(ArtifactError):
        Request("/store", model, version, b"")
    with pytest.raises(ArtifactError):
        Plan("/store", model, version, "/c", b"")
