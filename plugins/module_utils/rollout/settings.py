# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role release_rollout writes for the programs of a rollout: on the release host, and on each gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .gateways import Address, Credentials
from .judge import Margins
from .judge import Settings as JudgeSettings
from .steering import Policy
from .worker_measures import Objectives

RELEASE_HOST_FILE = "/etc/deepseek/rollout/release.json"


# sysexits.h: a start changes nothing about it.
EX_CONFIG = 78


class SettingsError(Exception):
    """The settings cannot be used."""


@dataclass(frozen=True)
class Servers:
    """The servers of a model, as HAProxy names them."""

    backend: str
    canary: tuple[str, ...]
    stable: tuple[str, ...]


@dataclass(frozen=True)
class ReleaseHost:
    """Records, gateways, and how canaries are judged."""

    name: str
    directory: str
    credentials: Credentials
    gateways: Mapping[str, Address]
    servers: Mapping[str, Servers]
    policy: Policy
    interval_seconds: float
    answer_seconds: float


@dataclass(frozen=True)
class Gateway:
    """HAProxy's runtime socket, share map and socket for the metrics of workers, and what a watchdog keeps."""

    control: str
    shares: str
    metrics: str
    metrics_seconds: float
    objectives: Objectives
    directory: str
    socket: str
    servers: Mapping[str, Servers]
    interval_seconds: float
    answer_seconds: float
    judge: JudgeSettings = field(default_factory=JudgeSettings)


def read_release_host(path: str) -> ReleaseHost:
    """Read the settings of a release host. Raises SettingsError."""
    document = _read(path)
    try:
        return ReleaseHost(
            name=document["name"],
            directory=document["directory"],
            credentials=Credentials(**document["credentials"]),
            gateways={name: Address(**value) for name, value in document["gateways"].items()},
            servers=_servers(document),
            policy=Policy(
                lease_seconds=document["lease_seconds"],
                settle_seconds=document["settle_seconds"],
                judge=_judge(document),
            ),
            interval_seconds=document["interval_seconds"],
            answer_seconds=document["answer_seconds"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"{path} is not what role release_rollout writes: {error!r}") from error


def read_gateway(path: str) -> Gateway:
    """Read the settings of a gateway. Raises SettingsError."""
    document = _read(path)
    try:
        return Gateway(
            control=document["control"],
            shares=document["shares"],
            metrics=document["metrics"],
            metrics_seconds=document["metrics_seconds"],
            objectives=Objectives(**document["objectives"]),
            directory=document["directory"],
            socket=document["socket"],
            servers=_servers(document),
            interval_seconds=document["interval_seconds"],
            answer_seconds=document["answer_seconds"],
            judge=_judge(document),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"{path} is not what role release_rollout writes: {error!r}") from error


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        raise SettingsError(str(error)) from error
    except ValueError as error:
        raise SettingsError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path} is no JSON object")
    return document


def _servers(document: Mapping[str, Any]) -> dict[str, Servers]:
    return {
        model: Servers(value["backend"], tuple(value["canary"]), tuple(value["stable"]))
        for model, value in document["servers"].items()
    }


def _judge(document: Mapping[str, Any]) -> JudgeSettings:
    """Thresholds by the names that the judge has for them; what is left out is as the judge has it."""
    given = dict(document["judge"])
    margins = {name: Margins(**value) for name, value in given.pop("margins", {}).items()}
    settings = JudgeSettings(**given)
    return replace(settings, margins={**settings.margins, **margins})
