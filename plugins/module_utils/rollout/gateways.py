# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give orders to the watchdogs of all gateways, over mutual TLS, each within bounds of size and time."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from ..gateway.named_connection import NamedConnection
from .lease import Order
from .measures import MeasureError, Reading, read_stat
from .order_socket import PATH
from .record import WHOLE
from .worker_measures import Reading as WorkerReading
from .worker_readings import read_written

TIMEOUT_SECONDS = 5
MAX_REPLY = 8 * 1024 * 1024
AT_A_TIME = 16


class GatewayError(Exception):
    """A gateway did not carry out an order, or it is not known whether it did."""


@dataclass(frozen=True)
class Address:
    """Where a gateway takes orders; its certificate must have its name."""

    host: str
    port: int


@dataclass(frozen=True)
class Credentials:
    """Files of this host: the site's CA, its revocation lists, and the host's own certificate and key."""

    ca: str
    crl: str
    certificate: str
    private_key: str

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises OSError, ssl.SSLError."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_verify_locations(self.crl)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(self.certificate, self.private_key)
        return context


@dataclass(frozen=True)
class Reply:
    """What a gateway says: the share that HAProxy has, why it has less than was ordered, and what it knows of the servers.

    That is its own counters of them, which are down, and what they counted themselves, as far as it could read that.
    """

    share: int
    tripped: str
    reading: Reading
    down: tuple[str, ...] = ()
    workers: Mapping[str, WorkerReading] = field(default_factory=dict)


Tell = Callable[[str, Order], Reply]


def teller(addresses: Mapping[str, Address], credentials: Credentials) -> Tell:
    """Return what gives an order to a gateway by name. Certificates are read for each order, so that renewed ones are used."""

    def tell(name: str, order: Order) -> Reply:
        if name not in addresses:
            raise GatewayError(f"{name} is not among the gateways of the settings")
        try:
            to = addresses[name]
            context = credentials.context()
            connection = NamedConnection(name, to.host, to.port, TIMEOUT_SECONDS, context)
            try:
                body = json.dumps(asdict(order)).encode()
                connection.request("POST", PATH, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = answer.read(MAX_REPLY + 1)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise GatewayError(f"{name} does not answer: {error}") from error
        return _reply(name, order, answer.status, data)

    return tell


def tell_all(
    tell: Tell, orders: Mapping[str, Order]
) -> tuple[dict[str, Reply], dict[str, GatewayError]]:
    """Give orders to several gateways at a time: what they said, and what became of the others."""
    said: dict[str, Reply] = {}
    failed: dict[str, GatewayError] = {}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        pending = {name: pool.submit(tell, name, order) for name, order in orders.items()}
        for name, future in pending.items():
            try:
                said[name] = future.result()
            except GatewayError as error:
                failed[name] = error
    return said, failed


def _reply(name: str, order: Order, status: int, data: bytes) -> Reply:
    try:
        document = json.loads(data) if len(data) <= MAX_REPLY else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise GatewayError(f"{name} answers with status {status} and no JSON")
    if status != http.HTTPStatus.OK:
        raise GatewayError(f"{name} refuses with status {status}: {document.get('error')}")
    if (document.get("model"), document.get("fencing")) != (order.model, order.fencing):
        raise GatewayError(f"{name} answers something else than was asked")
    try:
        return _checked(document)
    except (KeyError, TypeError, ValueError, MeasureError) as error:
        raise GatewayError(f"{name} answers what cannot be read: {error!r}") from error


def _checked(document: Mapping[str, object]) -> Reply:
    share, process, tripped, stat, down, workers = (
        document[key] for key in ("share", "process", "tripped", "stat", "down", "workers")
    )
    if not isinstance(share, int) or not isinstance(process, int) or not 0 <= share <= WHOLE:
        raise ValueError("share and process must be whole numbers")
    if not isinstance(tripped, str) or not isinstance(stat, str) or not isinstance(down, list):
        raise ValueError("tripped and stat must be texts, and down a list")
    if not isinstance(workers, dict):
        raise ValueError("workers must be an object")
    return Reply(
        share,
        tripped,
        read_stat(stat, process),
        tuple(str(server) for server in down),
        {str(name): read_written(reading) for name, reading in workers.items()},
    )
