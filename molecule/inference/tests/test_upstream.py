# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The upstream that runs the model for a worker, a stand-in here."""

from __future__ import annotations

from typing import Any

from conftest import MODEL, main_process
from lab_hosts import ADDRESSES, hosts
from test_service import question

testinfra_hosts = hosts("inference-3")

UNIT = "deepseek-upstream.service"
GREETING = b'100% "yours" for $5'  # the scenario's inventory


def test_its_answer_comes_through_the_worker(host: Any) -> None:
    answer = question(host, ADDRESSES["inference-3"]["inference"], "Who are you?")
    assert answer.json["choices"][0]["message"]["content"] == "I am a Qwen2ForCausalLM."
    assert answer.json["model"] == MODEL


def test_its_environment_is_what_the_inventory_says(host: Any) -> None:
    environment = host.file(f"/proc/{main_process(host, UNIT)}/environ").content
    assert b"GREETING=" + GREETING in environment.split(b"\0")


def test_systemd_calls_the_unit_tight(host: Any) -> None:
    host.run_expect([0], f"systemd-analyze security --no-pager --threshold=20 {UNIT}")
