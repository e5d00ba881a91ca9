# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters by which YAML reads what is defined once."""

from __future__ import annotations

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.needs_gpu import needs_gpu
from ansible_collections.onprem.deepseek.plugins.filter.system_refusal import system_refusal
from ansible_collections.onprem.deepseek.plugins.filter.usable_name import usable_name


@pytest.mark.parametrize(
    ("flavour", "needs"),
    [
        ("none", False),
        ("onnxruntime", False),
        ("onnxruntime_cuda", True),
        ("tensorrt", True),
        ("tensorrt_rtx", True),
    ],
)
def test_flavours_that_need_a_gpu(flavour: str, needs: bool) -> None:
    assert needs_gpu(flavour) is needs


def test_a_system_that_is_accepted_is_not_refused() -> None:
    debian = {"distribution": "Debian", "distribution_major_version": "12"}
    assert system_refusal(debian) == {"says": "", "remedy": ""}
    refused = system_refusal({"distribution": "Rocky", "distribution_major_version": "9"}, True)
    assert refused["says"] == "it runs Rocky 9: there is nothing for this system"
    assert refused["remedy"] == "Reinstall the host with Debian 12 or 13"


@pytest.mark.parametrize("name", ["1.0.0", "DeepSeek-R1_distill", "a" * 128])
def test_names_that_can_be_used(name: str) -> None:
    assert usable_name(name)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "1.0\n", "a" * 129, "ä"])
def test_names_that_cannot_be_used(name: str) -> None:
    assert not usable_name(name)
