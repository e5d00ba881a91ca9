# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Retire releases from real stores: what goes, what stays, and what is refused."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from release_host import Signer, overwrite, plan, signer, tree, write_checkpoint
from waiting import PATIENCE

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.build import describe
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import FileHash
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.names import (
    release_path,
    retired_path,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store import retire
from ansible_collections.onprem.deepseek.plugins.module_utils.store.model import Request
from ansible_collections.onprem.deepseek.plugins.module_utils.store.publish import publish
from ansible_collections.onprem.deepseek.plugins.module_utils.store.published import (
    existing_release,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan
from ansible_collections.onprem.deepseek.plugins.module_utils.store.retire import (
    RetireError,
    Retirement,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    inspect_replica,
    list_releases,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import PublishError

__all__ = ["plan", "signer"]


def asked(plan: Plan, version: str = "1.0.0", keep: tuple[str, ...] = ()) -> Retirement:
    return Retirement(plan.store, "tiny", version, plan.public_key, keep)


def whole(plan: Plan, version: str) -> bool:
    request = Request(plan.store, "tiny", version, plan.public_key)
    return inspect_replica(request).complete


@pytest.fixture
def second(plan: Plan, signer: Signer, tmp_path: Path) -> Plan:
    """A version 2.0.0 beside 1.0.0, of another checkpoint."""
    publish(plan, signer.tools())
    other = replace(plan, version="2.0.0", checkpoint=str(write_checkpoint(tmp_path / "two", 2000)))
    signer.graph = b"other graph"
    publish(other, signer.tools())
    return other


def test_what_only_this_release_needs_goes_and_the_other_stays(plan: Plan, second: Plan) -> None:
    before = tree(plan.store)
    planned = retire.retire(asked(plan), check_mode=True)
    assert tree(plan.store) == before
    done = retire.retire(asked(plan))
    assert done.changed
    assert done.removed == planned.removed
    assert done.freed == planned.freed > 0
    assert list_releases(plan.store) == [("tiny", "2.0.0")]
    assert whole(second, "2.0.0")
    left = {path.split("/")[2] for path in tree(plan.store) if path.startswith(("check", "graph"))}
    assert len(left) == 2
    again = retire.retire(asked(plan))
    assert not again.changed
    assert again.removed == []


def test_artifacts_that_another_release_names_stay(plan: Plan, signer: Signer) -> None:
    publish(plan, signer.tools())
    publish(replace(plan, version="1.0.1"), signer.tools())
    done = retire.retire(asked(plan))
    assert [Path(path).name for path in done.removed] == ["1.0.0.json", "1.0.0.json.sig"]
    assert whole(plan, "1.0.1")
    done = retire.retire(asked(plan, "1.0.1"))
    assert len(done.removed) == 4


def test_a_version_in_use_is_refused_and_nothing_is_touched(plan: Plan, second: Plan) -> None:
    before = tree(plan.store)
    for check_mode in (True, False):
        with pytest.raises(RetireError, match=r"1\.0\.0 is in use.*1\.0\.0, 2\.0\.0"):
            retire.retire(asked(plan, keep=("2.0.0", "1.0.0")), check_mode)
    assert tree(plan.store) == before


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_nothing_goes_while_a_release_is_not_what_was_signed(
    plan: Plan, second: Plan, version: str
) -> None:
    path = Path(release_path(plan.store, "tiny", version))
    overwrite(path, path.read_bytes().index(b'"fp32"') + 9, b"ffff")
    before = tree(plan.store)
    with pytest.raises(RetireError, match=version + r".*not what was signed"):
        retire.retire(asked(plan))
    assert tree(plan.store) == before


def test_engines_go_with_their_graph(plan: Plan, second: Plan) -> None:
    graphs = [existing_release(item).release.graphs["fp32"] for item in (plan, second)]  # type: ignore[union-attr]
    for number, graph in enumerate(graphs):
        directory = Path(plan.store, "engine", "tiny", str(number) * 64)
        directory.mkdir(parents=True)
        manifest, _unused = describe(
            "engine", "tiny", {"engine.plan": FileHash(1, "a" * 64, ())}, parents=(graph,)
        )
        (directory / "manifest.json").write_bytes(manifest.to_bytes())
    Path(plan.store, "engine", "tiny", "unreadable").mkdir()
    retire.retire(asked(plan))
    assert sorted(os.listdir(Path(plan.store, "engine", "tiny"))) == ["1" * 64, "unreadable"]


@pytest.mark.parametrize("after", range(5))
def test_an_interrupted_retirement_is_resumed(
    plan: Plan, second: Plan, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real, calls = retire.sync_path, []

    def interrupted(path: str) -> None:
        calls.append(path)
        if len(calls) > after:
            raise OSError("no more power")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(retire, "sync_path", interrupted)
        with pytest.raises(OSError, match="power"):
            retire.retire(asked(plan))
    assert list_releases(plan.store)[-1] == ("tiny", "2.0.0")
    retire.retire(asked(plan))
    left = {path for path in tree(plan.store) if "1.0.0" in path or ".retired-" in path}
    assert left == {"releases/tiny/.1.0.0.retired"}
    assert len(os.listdir(Path(plan.store, "checkpoint", "tiny"))) == 1
    assert whole(second, "2.0.0")


def test_a_retired_version_is_never_published_again(plan: Plan, signer: Signer) -> None:
    publish(plan, signer.tools())
    retire.retire(asked(plan))
    for check_mode in (True, False):
        with pytest.raises(PublishError, match=r"was retired.*new version"):
            publish(plan, signer.tools(), check_mode)


def test_a_host_without_the_release_notes_that_it_was_retired(plan: Plan) -> None:
    done = retire.retire(asked(plan))
    assert (done.changed, done.removed) == (True, [])
    assert not retire.retire(asked(plan)).changed


def test_a_record_that_is_none_is_named(plan: Plan) -> None:
    record = Path(retired_path(plan.store, "tiny", "1.0.0"))
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with pytest.raises(RetireError, match=r"\.retired is not a record"):
        retire.retire(asked(plan))


def test_two_publishes_of_one_version_at_once_are_serialised(
    plan: Plan, signer: Signer, tmp_path: Path
) -> None:
    """The second looked before the first was done, and must not write over what that published."""
    other = replace(plan, checkpoint=str(write_checkpoint(tmp_path / "other", 2000)))
    looked, go_on = threading.Event(), threading.Event()

    def slow_export(checkpoint: str, out: str) -> None:
        looked.set()
        assert go_on.wait(PATIENCE)
        signer.export(checkpoint, out)

    first = threading.Thread(
        target=publish, args=(plan, replace(signer.tools(), export=slow_export))
    )
    first.start()
    assert looked.wait(PATIENCE)
    refused: list[str] = []

    def second() -> None:
        try:
            publish(other, signer.tools())
        except PublishError as error:
            refused.append(str(error))

    later = threading.Thread(target=second)
    later.start()
    later.join(0.5)
    assert later.is_alive(), "it did not wait"
    go_on.set()
    first.join(PATIENCE)
    later.join(PATIENCE)
    assert len(refused) == 1
    assert "already published" in refused[0]
    assert whole(plan, "1.0.0")
    shutil.rmtree(plan.store)
