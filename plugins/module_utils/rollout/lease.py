# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway was ordered for a canary, and how long it may believe in that.

A gateway keeps the last order of each model. It takes none with a lower fencing number, and none that changes what was ordered
under the same one. A canary whose lease ran out, or that the gateway found bad, has no share here until the release host has
ordered that it has none: neither a renewal, nor a larger share, nor a release host that starts again restores one before.

Ages are of CLOCK_BOOTTIME (seconds since the host started, suspends included), which nobody sets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from .record import LARGEST_STEP, MAX_TEXT, RecordError, check_model

FORMAT = 1
MAX_BYTES = 64 * 1024
LONGEST_SECONDS = 3600


class OrderError(Exception):
    """The order is not carried out."""


@dataclass(frozen=True)
class Order:
    """What the release host wants of a gateway: a share in thousandths, good for some seconds."""

    model: str
    fencing: int
    share: int
    seconds: int


@dataclass(frozen=True)
class Kept:
    """The last order of a model, when it was heard of last, in which boot, and why it does not hold any more."""

    order: Order
    heard: float
    boot: str
    tripped: str = ""


def parse_order(data: bytes) -> Order:
    """Read an order. Raises OrderError, with the place by a JSON path."""
    document = _document(data)
    if set(document) != {"model", "fencing", "share", "seconds"}:
        raise OrderError("$ must have model, fencing, share and seconds")
    return _order(document)


def accept(kept: Kept | None, order: Order, now: float, boot: str) -> Kept:
    """Return what is to be kept from now on. Raises OrderError for an order that is not the newest."""
    if kept is None:
        return Kept(order, now, boot)
    if order.fencing > kept.order.fencing:
        over = kept.order.share and order.share
        return Kept(order, now, boot, watch(kept, now, boot).tripped if over else "")
    if order.fencing < kept.order.fencing:
        raise OrderError(
            f"order {order.fencing} for {order.model} comes after order {kept.order.fencing}: somebody else steers the rollout"
        )
    if order != kept.order:
        raise OrderError(
            f"order {order.fencing} for {order.model} was another: {kept.order.share} thousandths for {kept.order.seconds} s"
        )
    return replace(watch(kept, now, boot), heard=now)


def watch(kept: Kept, now: float, boot: str) -> Kept:
    """Return what is kept, with the reason if its lease has run out."""
    if kept.boot != boot:
        # How long the host was down is not known; the judge has as long as ever to be heard.
        return replace(kept, heard=now, boot=boot)
    if kept.tripped or not kept.order.share or now - kept.heard <= kept.order.seconds:
        return kept
    return trip(kept, f"nothing was heard from the release host for {kept.order.seconds} s")


def trip(kept: Kept, reason: str) -> Kept:
    """Take the share away."""
    return replace(kept, tripped=reason[:MAX_TEXT])


def allowed(kept: Kept | None) -> int:
    """Thousandths that the canary may have now; none where nobody ordered anything."""
    return 0 if kept is None or kept.tripped else kept.order.share


def to_json(kept: Kept) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(kept)}, sort_keys=True).encode() + b"\n"


def from_json(data: bytes) -> Kept:
    """Read what is kept. Raises OrderError."""
    document = _document(data)
    if set(document) != {"format", "order", "heard", "boot", "tripped"}:
        raise OrderError("$ must have format, order, heard, boot and tripped")
    if document["format"] != FORMAT or not isinstance(document["order"], dict):
        raise OrderError(f"$.format must be {FORMAT}, and $.order an object")
    heard, boot, tripped = document["heard"], document["boot"], document["tripped"]
    # false for what is no number, too
    if isinstance(heard, bool) or not isinstance(heard, int | float) or not 0 <= heard < 1e12:
        raise OrderError("$.heard must be a number of seconds")
    if not isinstance(boot, str) or not isinstance(tripped, str) or len(tripped) > MAX_TEXT:
        raise OrderError("$.boot and $.tripped must be texts")
    return Kept(_order(document["order"]), float(heard), boot, tripped)


def _document(data: bytes) -> Mapping[str, object]:
    if len(data) > MAX_BYTES:
        raise OrderError(f"$ has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OrderError(f"$ is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise OrderError("$ must be an object")
    return document


def _order(document: Mapping[str, object]) -> Order:
    model = document.get("model")
    try:
        name = check_model(model if isinstance(model, str) else "")
    except RecordError as error:
        raise OrderError(f"$.model: {error}") from error
    return Order(
        model=name,
        fencing=_whole(document, "fencing", 1, 2**63),
        share=_whole(document, "share", 0, LARGEST_STEP),
        seconds=_whole(document, "seconds", 1, LONGEST_SECONDS),
    )


def _whole(document: Mapping[str, object], key: str, least: int, most: int) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise OrderError(f"$.{key} must be a whole number from {least} to {most}")
    return value
