# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Store an engine under its key, and pull it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from release_host import SMALL, Signer, overwrite, plan, signer, tree
from source_hosts import site
from stored_engines import Engines, engines, write_build

from ansible_collections.onprem.deepseek.plugins.module_utils.store import engines as engine
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    PublishError,
)

__all__ = ["engines", "plan", "signer", "site"]


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
    directory = write_build(tmp_path / "build", done.release, plan.store, **changes.get(spoil, {}))
    if (directory / spoil).exists():
        (directory / spoil).unlink()
    if spoil == "spelling":
        (directory / "key.json").write_text(json.dumps({"schema": 1}))
    digest = "0" * 64 if spoil == "digest" else done.release.graphs["fp32"]
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=says):
            engine.store_engine(
                engine.Build(plan.writer, str(directory), digest), signer.sign_directory, check_mode
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


def test_modes_and_strangers_are_repaired_without_a_source(engines: Engines) -> None:
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
