# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publish prepared precisions with a release."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from release_host import Signer, overwrite, plan, signer, tree

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    sha256_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    ArtifactError,
    artifact_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import (
    Request,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
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
    directory = artifact_path(prepared.store, "graph", "tiny", graphs["int8"])
    manifest = read_manifest(directory, graphs["int8"])
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
def test_each_thing_that_a_precision_depends_on_makes_it_again_in_a_new_version(
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
    directory = Path(prepared.store, "graph", "tiny", done.release.graphs["int8"])
    overwrite(directory / "decoder.onnx", 0, b"#")
    repaired = publish(prepared, signer.tools())
    assert [action.split()[:2] for action in repaired.actions] == [["prepared", "int8"]]
    assert "int8: the graph" in repaired.rebuild_reason
    assert inspect_replica(Request(prepared.store, "tiny", "1.0.0", signer.pem)).complete


def test_nothing_is_prepared_from_a_damaged_graph(prepared: Plan, signer: Signer) -> None:
    done = publish(dataclasses.replace(prepared, precisions=()), signer.tools())
    assert done.release is not None
    directory = Path(prepared.store, "graph", "tiny", done.release.graphs["fp32"])
    overwrite(directory / "decoder.onnx", 0, b"#")
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
