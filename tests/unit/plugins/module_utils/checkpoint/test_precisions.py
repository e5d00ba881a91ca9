# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be asked for, and what is refused before anything is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.doc_fragments.store import ModuleDocFragment
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import (
    PREPARED,
    THRESHOLDS,
    Precision,
    parse_precisions,
    precision_problems,
    precisions_option,
)

NEVER_INVENTED = (
    "int8: it quantises activations and has no calibration text: their scales are measured, "
    "never invented"
)


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str]:
    for name in ("held-out", "calibration"):
        (tmp_path / name).write_text(f"{name}\n")
    return str(tmp_path / "held-out"), str(tmp_path / "calibration")


def found(*precisions: Precision) -> list[str]:
    return [f"{where}: {what} ({remedy})" for where, what, remedy in precision_problems(precisions)]


def test_every_precision_with_its_texts_is_right(texts: tuple[str, str]) -> None:
    held_out, calibration = texts
    precisions = [
        Precision(name, held_out, calibration if activations else None)
        for name, activations in PREPARED.items()
    ]
    precisions[3] = dataclasses.replace(precisions[3], block_size=32, min_top1_agreement=0.0)
    assert precisions[3].name == "int4"
    assert found(*precisions) == []


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("int8", {}, "int8: it quantises activations and has no calibration text"),
        ("fp8", {}, "fp8: it quantises activations and has no calibration text"),
        ("fp16", {"calibration": "CALIBRATION"}, "fp16: it quantises no activations"),
        ("int8", {"calibration": "HELD-OUT"}, "int8: it is calibrated with the text that"),
        ("fp16", {"block_size": 64}, "fp16: it has no blocks (leave 'block_size' out)"),
        ("int4", {"block_size": 48}, "int4: its block_size is 48 (give a power of two"),
        ("int4", {"block_size": 8}, "int4: its block_size is 8"),
        ("bf16", {"max_kl_divergence": -1.0}, "bf16: its max_kl_divergence is -1.0"),
        ("bf16", {"min_top1_agreement": float("nan")}, "bf16: its min_top1_agreement is nan"),
    ],
)
def test_what_is_refused(
    texts: tuple[str, str], name: str, changes: dict[str, Any], says: str
) -> None:
    if "calibration" in changes:
        changes = {"calibration": texts[changes["calibration"] == "CALIBRATION"]}
    (only,) = found(Precision(name, texts[0], **changes))
    assert only.startswith(says)


def test_texts_that_are_not_there(texts: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    lines = found(
        Precision("fp16", str(tmp_path)),
        Precision("int8", "/nowhere/held-out", str(tmp_path / "empty")),
        Precision("int8", texts[0]),
    )
    assert [line.partition(" (")[0] for line in lines] == [
        "int8: this precision is listed more than once",
        f"{tmp_path}: the held_out text of fp16 is not a file",
        "/nowhere/held-out: the held_out text of int8 cannot be read: No such file or directory",
        f"{tmp_path}/empty: the calibration text of int8 is empty",
        NEVER_INVENTED,
    ]


def test_an_option_is_what_a_precision_takes() -> None:
    options = precisions_option()["options"]
    fields = {field.name for field in dataclasses.fields(Precision)}
    assert options.keys() == fields
    for name in options:
        assert f"      {name}:\n" in ModuleDocFragment.PRECISIONS
    (parsed,) = parse_precisions([dict.fromkeys(options) | {"name": "int4", "held_out": "/h"}])
    assert parsed == Precision("int4", "/h")
    assert parsed.arguments == dict.fromkeys(("block_size", *THRESHOLDS))
