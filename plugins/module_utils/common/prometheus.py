# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics in the text format of Prometheus, for node exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Sequence

Sample = tuple[str, str, str, float]  # name, what it is, labels, value


def metrics_text(samples: Sequence[Sample]) -> str:
    """The text format of Prometheus; samples of one name must follow each other."""
    lines: list[str] = []
    before = ""
    for name, text, labels, value in samples:
        if name != before:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        before = name
        lines.append(f"{name}{labels} {value:.17g}")
    return "\n".join(lines) + "\n"
