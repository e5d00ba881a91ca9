# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/reference/metrics.md names exactly the metrics that agents and roles write.

Those of the service are compared in serving/tests/test_metrics_reference.py, with what it exposes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_exports

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs/reference/metrics.md"
NAME = re.compile(r"deepseek_[a-z0-9]+(_[a-z0-9]+)+")
ROW = re.compile(r"^\| `(deepseek_\w+)` \| (\w+) \|", re.MULTILINE)
SERVICE = "## A worker"


def documented() -> dict[str, str]:
    """Type by name, of every metric that is not of the service."""
    before, _heading, rest = REFERENCE.read_text(encoding="utf-8").partition(SERVICE)
    service = rest.partition("\n## ")[0]
    return dict(ROW.findall(before + rest[len(service) :]))


def in_code() -> Iterator[tuple[Path, str, str]]:
    """A tuple that begins with a name and a text is a sample of an agent."""
    for path in (ROOT / "plugins/module_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Tuple) or len(node.elts) < 3:
                continue
            name, text = node.elts[:2]
            if (
                isinstance(name, ast.Constant)
                and isinstance(name.value, str)
                and NAME.fullmatch(name.value)
                and isinstance(text, ast.Constant)
                and " " in str(text.value)
            ):
                yield path, name.value, "counter" if name.value.endswith("_total") else "gauge"


def in_templates() -> Iterator[tuple[Path, str, str]]:
    types = re.compile(r"^# TYPE (\S+) (\w+)$", re.MULTILINE)
    for path in (ROOT / "roles").glob("*/templates/*.prom.j2"):
        for name, kind in types.findall(path.read_text(encoding="utf-8")):
            yield path, name, kind


WRITTEN = [*in_code(), *in_templates()]


def test_every_metric_is_documented_and_no_other() -> None:
    written = {name: kind for _path, name, kind in WRITTEN}
    assert {"deepseek_store_free_bytes", "deepseek_tls_not_after_seconds"} <= set(written)
    assert documented() == written


def test_every_metric_is_exported_by_one_role() -> None:
    exported = [
        (role, ROOT / metrics["names"])
        for role, said in role_exports.of_roles().items()
        for metrics in said.get("metrics", ())
        if metrics["names"] != "HAProxy"
    ]
    assert [place for _role, place in exported if not place.exists()] == []
    for path, name, _kind in WRITTEN:
        assert len({role for role, place in exported if path.is_relative_to(place)}) == 1, name
    defined = {path for path, _name, _kind in WRITTEN}
    for role, place in exported:
        if not place.is_relative_to(ROOT / "serving"):
            assert any(path.is_relative_to(place) for path in defined), role


def test_alerts_use_metrics_that_exist() -> None:
    page = (ROOT / "docs/how-to/monitor_store.md").read_text(encoding="utf-8")
    used = {match[0] for match in NAME.finditer(page)}
    assert used
    assert used - set(documented()) == set()
