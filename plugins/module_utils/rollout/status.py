# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout's record says, as a table for a terminal and as a page for a browser: one file, without scripts, in English and Chinese.

Everything is computed from the record and the time that is passed in; texts of the record are escaped wherever they go.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..common.findings import padded, width
from ..reports.languages import LANGUAGES
from ..reports.words import StatusWords
from .posterior import interval
from .record import Decision, Record, Release

NOTHING = "-"
COUNTED = ("canary_bad", "canary_all", "stable_bad", "stable_all")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: .7rem 0 2rem; }
th, td { border: 1px solid #bbb; padding: .35rem .6rem; text-align: left; vertical-align: top; overflow-wrap: break-word; }
thead th { background: #f2f2f2; }
td:first-child { white-space: nowrap; }
.state { font-size: 1.25rem; padding: .7rem 1rem; background: #f2f2f2; }
.state.step, .state.promoting { background: #fdf1cc; }
.state.done { background: #d6f0d8; }
.state.rolling_back, .state.rolled_back { background: #f6c9c6; }
td.good, td.bad { white-space: nowrap; }
td.good { background: #d6f0d8; } td.bad { background: #f6c9c6; }
"""


@dataclass(frozen=True)
class Grid:
    """A table: its title, its head, and rows of texts that are not escaped yet."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def status_table(record: Record, now: float, language: str = "en") -> str:
    """The status for a terminal: lines of at most what the texts need, no control characters."""
    words = LANGUAGES[language].status
    lines = [_headline(record, words), *(f"  {line}" for line in _facts(record, now, words))]
    for grid in _grids(record, words):
        lines += ["", grid.title, *_aligned([grid.head, *grid.rows])]
    return "".join(f"{_printable(line)}\n" for line in lines)


def status_page(record: Record, now: float) -> str:
    """The status as one HTML file, which loads nothing and runs nothing."""
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
        f"<title>{_escaped(record.model)}: {_escaped(record.state.value)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
    ]
    for language in LANGUAGES.values():
        words = language.status
        parts += [f'<section lang="{language.tag}" id="{language.tag}">']
        parts += [f"<h1>{_escaped(words.title)}: {_escaped(record.model)}</h1>"]
        parts += [f'<p class="state {record.state.value}">{_escaped(_headline(record, words))}</p>']
        parts += ["<ul>", *(f"<li>{_escaped(one)}</li>" for one in _facts(record, now, words))]
        parts += ["</ul>", *(_html(grid, words) for grid in _grids(record, words))]
        parts += ["</section>"]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _headline(record: Record, words: StatusWords) -> str:
    state = words.states[record.state.value]
    if not record.share:
        return f"{record.model}: {state}"
    step = words.step.format(step=record.step + 1, steps=len(record.steps))
    return f"{record.model}: {state}, {step}, {words.share} {_percent(record.share / 1000)}"


def _facts(record: Record, now: float, words: StatusWords) -> list[str]:
    facts = [
        f"{words.stable}: {_release(record.stable)}",
        f"{words.canary}: {_release(record.canary)}",
    ]
    if record.started_at:
        facts.append(f"{words.started}: {_time(record.started_at)}, {record.started_by}")
    if record.entered_at:
        facts.append(f"{words.entered}: {_time(record.entered_at)}")
    if record.lease:
        age = words.age.format(seconds=max(0, round(now - record.lease.renewed_at)))
        facts.append(f"{words.lease}: {record.lease.holder}, {age}, {record.lease.seconds} s")
    if record.reason:
        facts.append(f"{words.reason}: {record.reason}")
    facts.append(f"{words.as_of}: {_time(now)}")
    return facts


def _grids(record: Record, words: StatusWords) -> list[Grid]:

    judged = next((one for one in reversed(record.decisions) if one.measures), None)
    return [
        Grid(
            words.shares,
            (words.gateway, words.wanted, words.read_back),
            tuple(
                (
                    name,
                    _percent(share.wanted / 1000),
                    words.unknown if share.read_back is None else _percent(share.read_back / 1000),
                )
                for name, share in record.gateways.items()
            ),
        ),
        Grid(
            words.figures,
            (words.measure, words.canary, words.stable, words.interval, words.worse, words.enough),
            tuple(
                _figures(name, numbers, words)
                for name, numbers in sorted((judged.measures if judged else {}).items())
            ),
        ),
        Grid(
            words.decisions,
            (words.time, words.state, words.decision, words.reason),
            tuple(_decision(one, words) for one in reversed(record.decisions)),
        ),
    ]


def _figures(name: str, numbers: Mapping[str, float], words: StatusWords) -> tuple[str, ...]:
    title = words.measures.get(name, name)
    if any(one not in numbers for one in COUNTED):
        return (title, words.unknown, words.unknown, NOTHING, NOTHING, NOTHING)
    canary_bad, canary_all, stable_bad, stable_all = (int(numbers[one]) for one in COUNTED)
    low, high = interval(canary_bad, canary_all)
    return (
        title,
        _part(canary_bad, canary_all),
        _part(stable_bad, stable_all),
        f"{_percent(low)} - {_percent(high)}",
        f"{numbers['q']:.4f}" if "q" in numbers else NOTHING,
        f"{numbers['bad_from']:.4f}" if "bad_from" in numbers else NOTHING,
    )


def _decision(decision: Decision, words: StatusWords) -> tuple[str, ...]:
    return (
        _time(decision.at),
        words.states[decision.state.value],
        words.kinds.get(decision.kind, decision.kind),
        decision.reason,
    )


def _release(release: Release | None) -> str:
    return f"{release.version} ({release.digest[:12]})" if release else NOTHING


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _part(bad: int, total: int) -> str:
    return f"{bad} / {total} ({_percent(bad / total)})" if total else f"0 / 0 ({NOTHING})"


def _percent(part: float) -> str:
    return f"{part * 100:.2f}".rstrip("0").rstrip(".") + " %"


def _printable(text: str) -> str:
    """Control characters of a record's texts are no orders to a terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    texts = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*texts)]
    return [
        "  " + "  ".join(padded(cell, columns) for cell, columns in zip(row, widths)).rstrip()
        for row in texts
    ]


def _html(grid: Grid, words: StatusWords) -> str:
    if not grid.rows:
        return f"<h2>{_escaped(grid.title)}</h2>\n<p>{_escaped(words.none)}</p>"
    marks = {words.kinds["good"]: "good", words.kinds["bad"]: "bad"}

    def cell(text: str) -> str:
        mark = f' class="{marks[text]}"' if text in marks else ""
        return f"<td{mark}>{_escaped(text)}</td>"

    head = "".join(f"<th>{_escaped(one)}</th>" for one in grid.head)
    rows = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in grid.rows)
    return (
        f"<h2>{_escaped(grid.title)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )


def _escaped(text: str) -> str:
    return html.escape(_printable(text), quote=True)
