# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish a checkpoint and its graph: once, again, interrupted, damaged, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from release_host import Signer, overwrite, plan, signer, tree

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    sha256_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    release_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store import publish as publishing
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish, summary
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
    read_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    PublishError,
)

__all__ = ["plan", "signer"]


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
    def interrupted(_directory: str, _out: str) -> None:
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
    directory = Path(plan.store, "graph", "tiny", done.release.graphs["fp32"])
    overwrite(directory / name, 0, b"#")
    repaired = publish(plan, signer.tools())
    assert repaired.rebuild_reason
    assert {k: v for k, v in tree(plan.store).items() if "model.sig" not in k} == {
        k: v for k, v in before.items() if "model.sig" not in k
    }
    overwrite(directory / "decoder.onnx", 0, b"#")
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
