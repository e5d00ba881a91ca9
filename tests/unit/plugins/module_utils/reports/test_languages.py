# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports say in every language what they say in one."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.onprem.deepseek.plugins.filter.report_words import report_words
from ansible_collections.onprem.deepseek.plugins.filter.translated import translated as filtered
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.chinese import CHINESE
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.english import ENGLISH
from ansible_collections.onprem.deepseek.plugins.module_utils.reports.languages import (
    LANGUAGES,
    translated,
)

ROOT = Path(__file__).resolve().parents[5]
UTILS = ROOT / "plugins/module_utils"
# What has sentences that a report shows.
SAYING = (
    *("preflight/check.py", "preflight/hosts.py", "preflight/keys.py", "preflight/network.py"),
    *("preflight/host_state.py", "preflight/network_probe.py", "preflight/probe_wire.py"),
    *("inventory/systems.py", "pkcs11/custody.py", "zones/evidence.py"),
)
# Not shown, or by another report.
OTHERS = {
    # how the errors of Ansible and Jinja are known
    *("has no attribute", "is undefined", "host key|Host key"),
    "sudo|become|privilege|password is required",
    # a name of a task, and parts that stand in other sentences
    "Refuse a checkpoint that cannot be served, and precisions without their texts",
    " ({} of {} such connections were tried)",
    "{}{} from {} ({}) to {} ({})",
    "{} or {}",
}


def texts(path: Path) -> Iterator[str]:
    """What a file has as texts, but for docstrings; with {} where something is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {
        id(one)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for one in ast.walk(node)
        if one is not node
    }
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("file", SAYING)
def test_every_sentence_of_a_report_is_there_in_chinese(file: str) -> None:
    said = {
        text
        for text in texts(UTILS / file)
        if re.search(r"[a-z]{2,}", text) and " " in text.strip()
    }
    assert said
    assert said - CHINESE.sentences.keys() - OTHERS == set()


def leaves(words: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for name, value in words.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def fields(text: str) -> set[str]:
    return {name for _text, name, _spec, _how in string.Formatter().parse(text) if name}


def test_each_catalogue_has_the_same_keys_and_fills_in_the_same() -> None:
    catalogues = {
        tag: dict(leaves({**asdict(one), "tag": "", "sentences": {}}))
        for tag, one in LANGUAGES.items()
    }
    english = catalogues.pop("en")
    assert catalogues
    for tag, words in catalogues.items():
        assert words.keys() == english.keys(), tag
        for name, text in words.items():
            assert bool(text) == bool(english[name]), (tag, name)
            assert fields(text) == fields(english[name]), (tag, name)


@pytest.mark.parametrize("sentence", CHINESE.sentences)
def test_a_sentence_in_chinese_has_all_that_is_filled_in(sentence: str) -> None:
    said = CHINESE.sentences[sentence]
    assert fields(said) == {str(number) for number in range(sentence.count("{}"))}
    marks = [f"<{number}>" for number in range(sentence.count("{}"))]
    assert translated(sentence.format(*marks), CHINESE) == said.format(*marks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no text of ours", "no text of ours"),
        ("a: b: no NVIDIA GPU on the PCI bus", "a: b: PCI 总线上没有 NVIDIA GPU"),
        ("node-3: no role was tested on it", "node-3：没有任何角色在它上面测试过"),
        (
            "Add memory, or set deepseek_minimums.memory_gb to what you have (null: not judged)",
            "增加内存；或把 deepseek_minimums.memory_gb 设为现有的值（null 表示不判定）",
        ),
        (
            "tcp 22 from a (10.0.0.1) to b (10.0.0.2) is denied, and was reached",
            "tcp 22，从 a（10.0.0.1）到 b（10.0.0.2）：规定为禁止，实际为到达",
        ),
        ("x" * 5000, "x" * 5000),
        ("{0} {name} {}", "{0} {name} {}"),
        ("accepted: {0.__class__}", "已接受：{0.__class__}"),
    ],
)
def test_what_is_filled_in_stays_as_it_is(text: str, said: str) -> None:
    assert translated(text, CHINESE) == said
    assert translated(text, ENGLISH) == text


def test_the_variable_of_the_site_offers_the_languages() -> None:
    options = yaml.safe_load((ROOT / "roles/preflight/meta/argument_specs.yml").read_text())
    option = options["argument_specs"]["site"]["options"]["deepseek_report_language"]
    assert option["choices"] == list(LANGUAGES)
    variables = (ROOT / "roles/preflight/vars/main.yml").read_text()
    assert f"select('in', {list(LANGUAGES)})" in variables


def evidence() -> dict[str, Any]:
    """A report of zones with something of each kind."""
    cell = {"allowed": 2, "reached": 1, "denied": 3, "stopped": 2, "no_route": 1}
    return {
        "made": "2026-01-02",
        "probes": 5,
        "wrong": ["a does not enforce the rules of the zones"],
        "zones": {"z": ["10.0.0.0/8"], "y": []},
        "cells": {
            "z": {"z": cell, "y": dict.fromkeys(cell, 0)},
            "y": {"z": cell, "y": cell},
        },
        "flows": [
            {"from": "z", "to": "y", "protocol": "tcp", "ports": "1", "why": "-", "packets": 0}
        ],
        "hosts": {
            "a": {
                "enforced": False,
                "ruleset_sha256": "",
                "default_routes": [],
                "denied": {},
                "containers": [{"command": "c", "reached": 1, "tried": 2}],
                "refused_needs": [],
                "needs": 3,
                "tried_needs": 2,
                "canaries": {"10.9.9.9": ["silent", "no route"]},
            }
        },
    }


@pytest.mark.parametrize("tag", LANGUAGES)
def test_the_evidence_of_zones_is_rendered_without_missing_text(tag: str) -> None:
    environment = jinja2.Environment(
        autoescape=jinja2.select_autoescape(default_for_string=False),
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["onprem.deepseek.translated"] = filtered
    template = (ROOT / "roles/network_segmentation/templates/zones.html.j2").read_text()
    shown = environment.from_string(template).render(
        __network_segmentation_report=evidence(),
        __network_segmentation_words=report_words(tag, "zones"),
        __network_segmentation_signed={"sha256": "ab"},
    )
    body = re.sub(r"<code>.*?</code>|<[^>]+>", " ", shown.partition("<body>")[2], flags=re.DOTALL)
    english = re.findall(r"[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}", body)
    assert bool(english) == (tag == "en"), english
    assert "{" not in body
    assert f'<html lang="{tag}">' in shown


def test_words_of_what_does_not_exist_are_refused() -> None:
    for wrong in (("de", "zones"), ("en", "weather")):
        with pytest.raises(Exception, match="report_words: "):
            report_words(*wrong)
    with pytest.raises(Exception, match="translated: there is no language 'de'"):
        filtered("x", "de")
