# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steer the rollouts of a release host: `deepseek-rollout-judge SETTINGS`, a service.

Gateways lower a canary by themselves when this ends; it goes on where the record says that it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..common.service_manager import notify
from . import record_file
from .gateways import teller
from .record import RecordError
from .record_file import StaleError
from .settings import EX_CONFIG, ReleaseHost, SettingsError, read_release_host
from .stages import Stages
from .steering import Steering
from .windows import Windows

MODELS_AT_A_TIME = 16
_WRONG = (StaleError, RecordError, OSError)


def steering_of(settings: ReleaseHost, say: Callable[[str], object]) -> Steering:
    """Return what steers the rollouts of a release host."""
    return Steering(
        directory=settings.directory,
        holder=settings.name,
        policy=settings.policy,
        tell=teller(settings.gateways, settings.credentials),
        judge=Stages(settings.servers, Windows(settings.answer_seconds)).judge,
        say=say,
    )


def turns(steering: Steering) -> None:
    """Take a turn for every model that has something to do, side by side: no model waits for what a gateway lacks for another."""
    with ThreadPoolExecutor(MODELS_AT_A_TIME) as pool:
        for model in steering.open_models():
            pool.submit(_turn, steering, model)


def _turn(steering: Steering, model: str) -> None:
    try:
        before = record_file.read(steering.directory, model)
        after = steering.turn(model)
        if after.fencing != before.fencing:
            # what was changed is ordered at once
            steering.turn(model)
    except _WRONG as error:
        steering.say(f"{model}: {error}")


def run(steering: Steering, interval: float) -> None:
    """Steer for ever."""
    steering.take_over()
    notify("READY=1")
    while True:
        turns(steering)
        notify("WATCHDOG=1")
        time.sleep(interval)


def say(text: str) -> None:
    """Write a line for the journal."""
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Steer until told to stop."""
    parser = argparse.ArgumentParser(description="Steer the rollouts of this release host.")
    parser.add_argument("settings", help="JSON file that role release_rollout writes")
    given = parser.parse_args()
    try:
        settings = read_release_host(given.settings)
        run(steering_of(settings, say), settings.interval_seconds)
    except SettingsError as error:
        say(str(error))
        return EX_CONFIG
    except _WRONG as error:
        say(str(error))
    return 1
