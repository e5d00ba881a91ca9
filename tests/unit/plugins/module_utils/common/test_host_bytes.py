# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No byte of a host ends a module: each can be read, and each result can be written."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.common.host_bytes import (
    HostModule,
    printable,
    read_text,
    text_of,
)

MODULES = Path(__file__).resolve().parents[5] / "plugins" / "modules"
CUT = "推理服务".encode()[:-1]


@given(st.binary(max_size=200))
def test_any_bytes_are_text_that_can_be_written(data: bytes) -> None:
    as_ansible_reads_it = data.decode("utf-8", "surrogateescape")
    assert printable(as_ansible_reads_it) == text_of(data) == printable(data)
    json.dumps(text_of(data), ensure_ascii=False).encode("utf-8")


@given(
    st.recursive(
        st.text(st.characters(exclude_categories=())) | st.binary() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_result_can_be_written(value: object) -> None:
    json.dumps(printable(value), ensure_ascii=False).encode("utf-8")


def test_what_is_text_stays_as_it_is() -> None:
    given_ = {"name": "推理服务", "list": [1, None, True, "a\n"]}
    assert printable(given_) == given_


def test_a_file_is_read_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "comm").write_bytes(b"a" + CUT + b"\n")
    assert read_text(tmp_path / "comm") == "a推理服\\xe5\\x8a\n"


@pytest.mark.parametrize("end", ["exit_json", "fail_json"])
def test_a_module_ends_with_a_result(capsys: pytest.CaptureFixture[str], end: str) -> None:
    said = CUT.decode("utf-8", "surrogateescape")
    with patch_module_args({}):
        module = HostModule(argument_spec={})
        with pytest.raises(SystemExit):
            getattr(module, end)(msg=said, names=[said], by={said: 1})
    result = json.loads(capsys.readouterr().out)
    escaped = "推理服\\xe5\\x8a"
    assert (result["msg"], result["names"], result["by"]) == (escaped, [escaped], {escaped: 1})


def test_every_module_ends_so() -> None:
    """Kind: one module that writes its own result, where all others go through one writer."""
    actions = {file.name for file in (MODULES.parent / "action").glob("*.py")}
    for file in sorted(MODULES.glob("*.py")):
        # of an action there is the documentation alone: nothing runs on a host
        if file.name in actions and "def main" not in file.read_text():
            continue
        used = {
            node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)
        }
        assert "AnsibleModule" not in used, file.name
        assert "HostModule" in used, file.name
