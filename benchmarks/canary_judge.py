# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the judge of canaries costs and finds, beside Flagger's loop and Kayenta's classifier.

    python benchmarks/canary_judge.py [--trials N] [--write]

All is simulated with seeded requests; `--write` puts the tables into
docs/reference/canary_judge.md.
Seconds are those of a site with 20 requests a second, judged every five seconds with four
measures, to the decision: what it takes to set the share on gateways comes on top of all three.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from canary_peers import Flagger, failed, kayenta_says_high

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.judge import (
    BAD,
    FAILURES,
    Counts,
    Settings,
    judge,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.simulation import (
    Boundaries,
    Case,
    Outcomes,
    simulate,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/canary_judge.md"
SEED = 18
ERRORS = (0.002, 0.005, 0.01)
PER_SECOND, SHARE, POLL_SECONDS, MEASURES = 20.0, 0.05, 5, 4


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [" | ".join(head)]
    lines.append("|".join("---" for _column in lines[0].split(" | ")))
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def percent(part: float) -> str:
    return f"{part * 100:.1f} %"


def median(values: Iterable[float]) -> str:
    found = list(values)
    return f"{statistics.median(found):.0f}" if found else "-"


def outcomes(settings: Settings, case: Case, trials: int) -> Outcomes:
    return simulate(case, settings, random.Random(SEED), trials)


def price_table(trials: int) -> str:
    """What the defaults cost and find, by errors, share and number of measures."""
    settings = Settings()
    rows = []
    for share in (0.05, 0.25, 0.5):
        for measures in (1, 4):
            for error in ERRORS:
                equal = outcomes(settings, Case(error, 0.0, share, measures), trials)
                worse = outcomes(settings, Case(error, 0.025, share, measures), trials)
                gross = outcomes(settings, Case(error, 0.2, share, measures, step=5), trials)
                rows.append(
                    [
                        percent(share),
                        str(measures),
                        percent(error),
                        percent(equal.rolled_back()),
                        percent(worse.bad_within(1500)),
                        percent(worse.bad_within(2000)),
                        percent(len(worse.good) / trials),
                        median(equal.good),
                        median(gross.bad),
                    ]
                )
    return table(
        [
            "share",
            "measures",
            "errors",
            "equal: rolled back",
            "+2.5 points: found in 1,500",
            "in 2,000",
            "let through",
            "equal: requests to good (median)",
            "+20 points: requests to bad (median)",
        ],
        rows,
    )


def threshold_table(trials: int) -> str:
    """One threshold changed at a time, at 1 % errors, four measures and half of the requests."""
    default = Settings()
    failures = default.margins[FAILURES]

    def margin(tolerated: float, unacceptable: float) -> Settings:
        changed = replace(failures, tolerated=tolerated, unacceptable=unacceptable)
        return replace(default, margins={**default.margins, FAILURES: changed})

    cases = {
        "defaults": default,
        "`doubt_bad` 0.0005": replace(default, doubt_bad=0.0005),
        "`doubt_bad` 0.01": replace(default, doubt_bad=0.01),
        "`doubt_good` 0.01": replace(default, doubt_good=0.01),
        "`doubt_good` 0.2": replace(default, doubt_good=0.2),
        "`tolerated` 0": margin(0.0, failures.unacceptable),
        "`tolerated` 1 point": margin(0.01, failures.unacceptable),
        "`unacceptable` 1 point": margin(failures.tolerated, 0.01),
        "`unacceptable` 2 points": margin(failures.tolerated, 0.02),
        "`least_failures` 1": replace(default, least_failures=1),
        "`least_failures` 10": replace(default, least_failures=10),
        "`least_requests` 100": replace(default, least_requests=100),
        "`least_requests` 1,000": replace(default, least_requests=1000),
        "`stage_requests` 1,000": replace(default, stage_requests=1000),
        "`stage_requests` 4,000": replace(default, stage_requests=4000),
    }
    rows = []
    for name, settings in cases.items():
        equal = outcomes(settings, Case(0.01, 0.0, 0.5, 4), trials)
        worse = outcomes(settings, Case(0.01, 0.025, 0.5, 4), trials)
        rows.append(
            [
                name,
                percent(len(equal.bad) / trials),
                percent(equal.undecided / trials),
                percent(len(worse.bad) / trials),
                percent(len(worse.good) / trials),
                median(equal.good),
                median(worse.bad),
            ]
        )
    return table(
        [
            "settings",
            "equal: found bad",
            "equal: undecided",
            "+2.5 points: found bad",
            "+2.5 points: let through",
            "equal: requests to good (median)",
            "+2.5 points: requests to bad (median)",
        ],
        rows,
    )


def our_seconds(error: float, bad: float, trials: int) -> list[float]:
    """Seconds from the first failing canary request to bad, in stages that were found bad."""
    settings, generator = Settings(), random.Random(SEED)
    boundaries = Boundaries(settings, MEASURES, SHARE, FAILURES)
    each = round(PER_SECOND * SHARE * POLL_SECONDS)
    found = []
    for _trial in range(trials):
        canary_bad = stable_bad = 0
        first = None
        for asked in range(each, settings.stage_requests + 1, each):
            wrong = failed(each, bad, generator)
            if wrong and first is None:
                first = (asked - each * wrong / (wrong + 1)) / (PER_SECOND * SHARE)
            canary_bad += wrong
            stable_bad += failed(boundaries.stable_all(each), error, generator)
            if boundaries.verdict(canary_bad, asked, stable_bad) == BAD and first is not None:
                found.append(asked / (PER_SECOND * SHARE) - first)
                break
    return found


def peer_table(trials: int) -> str:
    """Seconds to a decision, and how many are rolled back, beside Flagger's loop in one run."""
    rows = []
    for name, error, bad in (
        ("all requests fail", 0.005, 1.0),
        ("20 % fail", 0.005, 0.2),
        ("5 % fail", 0.005, 0.05),
        ("3 % fail", 0.005, 0.03),
        ("equal at 0.5 %", 0.005, 0.005),
        ("equal at 1 %", 0.01, 0.01),
    ):
        ours = our_seconds(error, bad, trials)
        generator = random.Random(SEED)
        theirs = [Flagger().run(bad, PER_SECOND, generator) for _trial in range(trials)]
        seconds = [one for _promoted, one in theirs if one is not None]
        ratio = statistics.median(seconds) / statistics.median(ours) if ours and seconds else 0.0
        rows.append(
            [
                name,
                percent(len(ours) / trials),
                median(ours),
                percent(sum(not promoted for promoted, _one in theirs) / trials),
                median(seconds),
                f"{ratio:.0f} times" if ratio and bad > error else "-",
            ]
        )
    return table(
        [
            "canary",
            "found bad by the judge",
            "seconds (median)",
            "rolled back by Flagger's loop",
            "seconds (median)",
            "sooner",
        ],
        rows,
    )


def fixed_threshold_table() -> str:
    rows = [
        [
            f"{allowed} of 10",
            *(percent(Flagger(allowed).rolls_back_of(10, 50, one)) for one in ERRORS),
        ]
        for allowed in (2, 5, 10)
    ]
    return table(["failed checks to a rollback", *(percent(one) for one in ERRORS)], rows)


def kayenta_table(trials: int) -> str:
    """Cases as they were reported, and stages of 33 minutes, given to both."""

    def ours(counts: Counts) -> str:
        return "bad" if judge(counts, Settings(), measures=MEASURES).kind == BAD else "not bad"

    def theirs(control: list[float], experiment: list[float]) -> str:
        return "high" if kayenta_says_high(control, experiment) else "passes"

    low = (1.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    spread = [value for at, one in enumerate(low) for value in (one, 100.0 + at)] + [17.0]
    narrow = [10.0 + step / 10 for step in range(7)] + [17.0 + step / 10 for step in range(8)]
    rows = [
        [
            "kayenta#426: errors in six minutes, against none",
            theirs([0.0] * 6, [0.0, 1.0, 2.0, 1.0, 0.0, 0.0]),
            ours(Counts(4, 60, 0, 1140)),
        ],
        [
            "spinnaker#6278: seven of ten a hundred times slower",
            theirs([1.0] * 10, [100.0] * 7 + [1.0] * 3),
            ours(Counts(7, 10, 0, 190)),
        ],
        [
            "kayenta#780: values spread, seven of fifteen far beyond all others",
            theirs(narrow, spread),
            ours(Counts(7, 15, 0, 285)),
        ],
    ]
    for name, bad in (("equal at 0.5 %", 0.005), ("3 % against 0.5 %", 0.03)):
        rows.append([f"{name}, {trials} stages", *_stages(bad, trials)])
    return table(["case", "Kayenta's classifier", "the judge"], rows)


def _stages(bad: float, trials: int) -> tuple[str, str]:
    generator, minutes, canary, stable = random.Random(SEED), 33, 60, 1140
    high = 0
    for _trial in range(trials):
        experiment = [failed(canary, bad, generator) / canary for _minute in range(minutes)]
        control = [failed(stable, 0.005, generator) / stable for _minute in range(minutes)]
        high += kayenta_says_high(control, experiment)
    case = Case(0.005, bad - 0.005, measures=MEASURES)
    found = outcomes(Settings(), case, trials)
    return f"high in {percent(high / trials)}", f"bad in {percent(len(found.bad) / trials)}"


def put(page: str, name: str, made: str) -> str:
    """Put a table between its marks."""
    marks = rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(marks, lambda one: f"{one[1]}{made}\n{one[2]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    few = max(10, given.trials // 10)
    tables: dict[str, Callable[[], str]] = {
        "prices": lambda: price_table(given.trials),
        "thresholds": lambda: threshold_table(given.trials),
        "peers": lambda: peer_table(few),
        "fixed thresholds": fixed_threshold_table,
        "kayenta": lambda: kayenta_table(few),
    }
    page = PAGE.read_text(encoding="utf-8") if given.write else ""
    for name, make in tables.items():
        made = make()
        sys.stdout.write(f"{name}\n\n{made}\n\n")
        sys.stdout.flush()
        page = put(page, name, made)
    if given.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
