# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what a rollout shall do, on the release host: `deepseek-rollout prepare|start|promote|finish|abort|status`.

It prints JSON: whether something was changed, and the record. It acts itself, as the service does, so that an abort needs no
service: both order the same under the same number.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from . import machine, record_file
from .loop import steering_of
from .machine import Plan, TransitionError
from .record import AT_REST, Record, RecordError, Release, State, to_json
from .record_file import StaleError
from .settings import RELEASE_HOST_FILE, SettingsError, read_release_host
from .steering import Steering

TURN_SECONDS = 0.5
_PERCENT = 10


def main() -> int:
    """Exit with 0 when what was asked for is so, with 1 and the reason else."""
    given = arguments()
    try:
        settings = read_release_host(given.settings)
        failures: list[str] = []
        steering = steering_of(settings, failures.append)
        models = [given.model] if given.model else record_file.models(settings.directory)
        if given.what == "status":
            records = [record_file.read(settings.directory, model) for model in models]
            print_json({"records": [document_of(record) for record in records]})
            return 0
        done = [act(steering, given, model, tuple(settings.gateways)) for model in models]
    except (SettingsError, TransitionError, StaleError, RecordError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    changed = any(one for one, _record in done)
    records = [record for _changed, record in done]
    said = {"records": [document_of(record) for record in records]}
    print_json({"changed": changed, **({"record": said["records"][0]} if given.model else said)})
    undone = [unfinished(record, given.wait) for record in records if not is_finished(record)]
    sys.stderr.write("".join(f"{words} {failures[-1] if failures else ''}\n" for words in undone))
    return 1 if undone else 0


def act(
    steering: Steering, given: argparse.Namespace, model: str, gateways: tuple[str, ...]
) -> tuple[bool, Record]:
    """Change the record of a model, and wait until the gateways have followed; whether it was another before."""
    plan = plan_of(given, gateways) if given.what == "prepare" else None
    before = record_file.read(steering.directory, model)
    after = record_file.change(steering.directory, model, transition(given, plan))
    return before.fencing != after.fencing, wait(steering, after, given.wait)


def is_finished(record: Record) -> bool:
    return record.settled and record.state is not State.ROLLING_BACK


def unfinished(record: Record, seconds: float) -> str:
    have = {name: share.read_back for name, share in record.gateways.items()}
    return (
        f"{record.model} is {record.state.value}; after {seconds:g} s the gateways say {have}, "
        f"and {record.share} is wanted."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Say what the rollout of a release shall do.")
    parser.add_argument("--settings", default=RELEASE_HOST_FILE)
    what = parser.add_subparsers(dest="what", required=True)
    for name, text in {
        "prepare": "begin: the canary's workers hold the release",
        "start": "give the canary its first share",
        "promote": "begin to make the canary's release the stable one",
        "finish": "say that all hosts serve it",
        "abort": "take the share away everywhere, from all canaries without a model; with nothing under way, nothing",
        "status": "print what is written down",
    }.items():
        one = what.add_parser(name, help=text)
        one.add_argument("model", nargs="?" if name in ("status", "abort") else None)
        one.add_argument("--by", default="", help="who asks")
        one.add_argument(
            "--wait", type=float, default=30.0, help="seconds until all gateways said so"
        )
        if name == "abort":
            one.add_argument("--reason", default="it was told to stop")
        if name == "prepare":
            one.add_argument("--stable", required=True, type=release, metavar="VERSION@DIGEST")
            one.add_argument("--canary", required=True, type=release, metavar="VERSION@DIGEST")
            one.add_argument(
                "--steps", required=True, type=steps, help="rising percents, as in 5,25,50"
            )
            one.add_argument("--retry", action="store_true", help="although it was rolled back")
    return parser.parse_args()


def release(text: str) -> Release:
    version, _at, digest = text.partition("@")
    return Release(version, digest)


def steps(text: str) -> tuple[int, ...]:
    """Thousandths of percents, such as 5,25,50 or 0.5."""
    return tuple(round(float(part) * _PERCENT) for part in text.split(","))


def plan_of(given: argparse.Namespace, gateways: tuple[str, ...]) -> Plan:
    return Plan(given.stable, given.canary, given.steps, gateways, given.by, given.retry)


def transition(given: argparse.Namespace, plan: Plan | None) -> Callable[[Record], Record]:
    now = time.time()
    if plan is not None:
        return lambda record: machine.prepare(record, plan, now)
    return {
        "start": lambda record: machine.start(record, now),
        "promote": lambda record: machine.promote(record, now, given.by),
        "finish": lambda record: machine.finish(record, now),
        "abort": lambda record: machine.roll_back(record, now, given.reason),
    }[given.what]


def wait(steering: Steering, record: Record, seconds: float) -> Record:
    """Take turns until every gateway has said what was ordered, or the time is over."""
    end = time.monotonic() + seconds
    model = record.model
    while not record.settled or record.state is State.ROLLING_BACK:
        try:
            record = steering.turn(model)
        except StaleError:
            # the service took a turn, too
            record = record_file.read(steering.directory, model)
        if time.monotonic() >= end:
            break
        if not record.settled:
            time.sleep(TURN_SECONDS)
    return record


def document_of(record: Record) -> dict[str, object]:
    """Return the record as JSON has it, and what follows from it."""
    document: dict[str, object] = json.loads(to_json(record))
    return {
        **document,
        "share": record.share,
        "settled": record.settled,
        "ready": machine.is_ready(record),
        "at_rest": record.state in AT_REST,
    }


def print_json(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")
