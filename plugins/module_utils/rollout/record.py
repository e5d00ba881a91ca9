# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written down about the rollout of a model: one JSON document, which is all that a rollout knows.

Shares are thousandths of a model's requests, as the gateways' map has them. Times are seconds since 1970 (UTC), for people;
what must not depend on a clock that may be set (the age of a lease on a gateway) is measured where it counts.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ..artifacts.names import ArtifactError, check_digest, check_name

FORMAT = 1
# Of a document, which is read before it is known to be sound.
MAX_BYTES = 4 * 1024 * 1024
# The last ones are kept: with a decision for each 50 requests, those of 25,000.
MAX_DECISIONS = 500
MAX_REFUSED = 1000
MAX_STEPS = 20
MAX_GATEWAYS = 64
MAX_NUMBERS = 64
MAX_TEXT = 2000
WHOLE = 1000
"""All requests, in thousandths."""
LARGEST_STEP = 500
"""Of a canary: half of the requests (`share` is 1 to 50 percent)."""

_T = TypeVar("_T")


class RecordError(Exception):
    """A record cannot be what it says; the message names the place by a JSON path."""


class State(str, enum.Enum):
    """Where a rollout stands."""

    IDLE = "idle"
    PREPARED = "prepared"
    STEP = "step"
    PROMOTING = "promoting"
    DONE = "done"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


# In these the canary may have a share, and is guarded.
EXPOSED = frozenset({State.STEP, State.PROMOTING})
# In these nothing is under way.
AT_REST = frozenset({State.IDLE, State.DONE, State.ROLLED_BACK})


@dataclass(frozen=True)
class Release:
    """A version, and the SHA-256 of its release file."""

    version: str
    digest: str


@dataclass(frozen=True)
class Share:
    """What a gateway is to have, and what HAProxy said after that was ordered; None: not yet asked since."""

    wanted: int
    read_back: int | None = None


@dataclass(frozen=True)
class Lease:
    """Who guards the canary, when all gateways last heard of it, and for how many seconds that is good."""

    holder: str
    renewed_at: float
    seconds: int


@dataclass(frozen=True)
class Decision:
    """What was decided, and everything that it was decided from.

    `kind` is good, bad or hold for a judgement, and the name of the order else (start, promote, roll_back ...). `measures` has
    the numbers of each measure (counts, posterior, what was left out), `thresholds` the settings that applied.
    """

    at: float
    state: State
    step: int
    kind: str
    reason: str
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A release that was rolled back, and is not tried again until told."""

    version: str
    digest: str
    at: float
    reason: str


@dataclass(frozen=True)
class Record:
    """The rollout of one model. `fencing` rises with every order; gateways take none that is older than the last."""

    model: str
    fencing: int = 0
    state: State = State.IDLE
    stable: Release | None = None
    canary: Release | None = None
    steps: tuple[int, ...] = ()
    step: int = 0
    entered_at: float = 0.0
    gateways: Mapping[str, Share] = field(default_factory=dict)
    lease: Lease | None = None
    decisions: tuple[Decision, ...] = ()
    refused: tuple[Refusal, ...] = ()
    started_by: str = ""
    started_at: float = 0.0
    reason: str = ""

    @property
    def share(self) -> int:
        """Thousandths that the state gives the canary; a step's share stays while it is promoted."""
        return self.steps[self.step] if self.state in EXPOSED else 0

    @property
    def settled(self) -> bool:
        """Whether every gateway has said that it has what it is to have."""
        return all(share.read_back == share.wanted for share in self.gateways.values())

    def is_refused(self, digest: str) -> bool:
        return any(refusal.digest == digest for refusal in self.refused)


def check_model(name: str) -> str:
    """Return a name that can be one of a file. Raises RecordError."""
    try:
        return check_name(name, "model")
    except ArtifactError as error:
        raise RecordError(str(error)) from error


def to_json(record: Record) -> bytes:
    """Write a record. Raises RecordError for one that could not be read again."""
    document = {"format": FORMAT, **asdict(record)}
    data = json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    if from_json(data) != record:
        raise RecordError("the record would be read as another")
    return data


def from_json(data: bytes) -> Record:
    """Read a record. Raises RecordError for anything that to_json does not write."""
    if len(data) > MAX_BYTES:
        raise RecordError(f"$ has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"$ is no JSON: {error}") from error
    place = _Place("$", document)
    found = place.at("format").number(int, 0)
    if found != FORMAT:
        raise RecordError(f"$.format is {found}; this version reads {FORMAT}")
    record = Record(
        model=check_model(place.at("model").text()),
        fencing=place.at("fencing").number(int, 0),
        state=place.at("state").one_of(State),
        stable=place.at("stable").optional(_release),
        canary=place.at("canary").optional(_release),
        steps=place.at("steps").sequence(lambda item: item.number(int, 1, LARGEST_STEP), MAX_STEPS),
        step=place.at("step").number(int, 0),
        entered_at=place.at("entered_at").number(float, 0),
        gateways=place.at("gateways").mapping(_share, MAX_GATEWAYS),
        lease=place.at("lease").optional(_lease),
        decisions=place.at("decisions").sequence(_decision, MAX_DECISIONS),
        refused=place.at("refused").sequence(_refusal, MAX_REFUSED),
        started_by=place.at("started_by").text(),
        started_at=place.at("started_at").number(float, 0),
        reason=place.at("reason").text(),
    )
    place.has_no_more()
    _check(record)
    return record


def _check(record: Record) -> None:
    """Raise where the parts contradict each other."""
    if list(record.steps) != sorted(set(record.steps)):
        raise RecordError("$.steps must rise")
    if record.state is not State.IDLE and (record.stable is None or record.canary is None):
        raise RecordError(f"$.state is {record.state.value}, without a stable or a canary release")
    if record.state is not State.IDLE and record.step >= len(record.steps):
        raise RecordError(f"$.step is {record.step} of {len(record.steps)} steps")
    wrong = [name for name, share in record.gateways.items() if share.wanted > record.share]
    if wrong:
        raise RecordError(
            f"$.gateways wants more for {', '.join(sorted(wrong))} than the state gives: {record.share}"
        )


class _Place:
    """A value of the document, and its path."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.value = value
        self._asked: set[str] = set()

    def at(self, key: str) -> _Place:
        if not isinstance(self.value, dict) or key not in self.value:
            raise RecordError(f"{self.path}.{key} is missing")
        self._asked.add(key)
        return _Place(f"{self.path}.{key}", self.value[key])

    def has_no_more(self) -> None:
        unknown = sorted(set(self.value) - self._asked)
        if unknown:
            raise RecordError(f"{self.path}.{unknown[0]} is unknown")

    def text(self, longest: int = MAX_TEXT) -> str:
        if not isinstance(self.value, str) or len(self.value) > longest:
            raise RecordError(f"{self.path} must be a text of at most {longest} characters")
        return self.value

    def checked(self, check: Callable[[object, str], str]) -> str:
        try:
            return check(self.value, self.path)
        except ArtifactError as error:
            raise RecordError(str(error)) from error

    def number(self, kind: type[_T], least: float, most: float = float("inf")) -> _T:
        value = self.value
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))):
            raise RecordError(f"{self.path} must be a number ({kind.__name__})")
        # as a comparison that is false for what is no number, too
        if not least <= value <= most or value == float("inf"):
            raise RecordError(f"{self.path} must be between {least} and {most}")
        return kind(value)  # type: ignore[call-arg]

    def one_of(self, kind: type[State]) -> State:
        try:
            return kind(self.value)
        except ValueError:
            raise RecordError(
                f"{self.path} must be one of {', '.join(item.value for item in kind)}"
            ) from None

    def optional(self, read: Callable[[_Place], _T]) -> _T | None:
        return None if self.value is None else read(self)

    def sequence(self, read: Callable[[_Place], _T], most: int) -> tuple[_T, ...]:
        if not isinstance(self.value, list) or len(self.value) > most:
            raise RecordError(f"{self.path} must be a list of at most {most}")
        return tuple(
            read(_Place(f"{self.path}[{index}]", item)) for index, item in enumerate(self.value)
        )

    def mapping(self, read: Callable[[_Place], _T], most: int) -> dict[str, _T]:
        if not isinstance(self.value, dict) or len(self.value) > most:
            raise RecordError(f"{self.path} must be an object of at most {most} members")
        if any(len(key) > MAX_TEXT for key in self.value):
            raise RecordError(f"{self.path} has a name of more than {MAX_TEXT} characters")
        return {key: read(_Place(f"{self.path}.{key}", item)) for key, item in self.value.items()}


def _release(place: _Place) -> Release:
    release = Release(
        version=place.at("version").checked(check_name),
        digest=place.at("digest").checked(check_digest),
    )
    place.has_no_more()
    return release


def _share(place: _Place) -> Share:
    share = Share(
        wanted=place.at("wanted").number(int, 0, LARGEST_STEP),
        read_back=place.at("read_back").optional(lambda item: item.number(int, 0, WHOLE)),
    )
    place.has_no_more()
    return share


def _lease(place: _Place) -> Lease:
    lease = Lease(
        holder=place.at("holder").text(),
        renewed_at=place.at("renewed_at").number(float, 0),
        seconds=place.at("seconds").number(int, 1),
    )
    place.has_no_more()
    return lease


def _numbers(place: _Place) -> dict[str, float]:
    return place.mapping(lambda item: item.number(float, float("-inf")), MAX_NUMBERS)


def _decision(place: _Place) -> Decision:
    decision = Decision(
        at=place.at("at").number(float, 0),
        state=place.at("state").one_of(State),
        step=place.at("step").number(int, 0),
        kind=place.at("kind").text(),
        reason=place.at("reason").text(),
        measures=place.at("measures").mapping(_numbers, MAX_NUMBERS),
        thresholds=_numbers(place.at("thresholds")),
    )
    place.has_no_more()
    return decision


def _refusal(place: _Place) -> Refusal:
    refusal = Refusal(
        version=place.at("version").checked(check_name),
        digest=place.at("digest").checked(check_digest),
        at=place.at("at").number(float, 0),
        reason=place.at("reason").text(),
    )
    place.has_no_more()
    return refusal
