"""deepseek-serve: verify a release, load it, and answer over mutual TLS."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from deepseek_serving import settings as settings_file
from deepseek_serving.backends.base import Backend
from deepseek_serving.backends.encoders import load_encoders
from deepseek_serving.backends.local import load
from deepseek_serving.backends.upstream import Upstream
from deepseek_serving.cli import run
from deepseek_serving.errors import EX_CONFIG, EngineError
from deepseek_serving.http.app import create_app
from deepseek_serving.http.connections import ConnectionState, ListeningServer, Places
from deepseek_serving.http.proxy import create_forwarding_app
from deepseek_serving.http.tls import checked_protocol, server_context
from deepseek_serving.log import log_to
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.settings import KeySettings, ModelSettings, Settings
from deepseek_serving.text.documents import third_party
from deepseek_serving.trust.release import verify_checkpoint, verify_release

logger = logging.getLogger(__name__)


PASSING = (OSError, MemoryError, RuntimeError)
PUBLISH_AGAIN = "publish the model again with this version of the serving package"
# of uvicorn, in a second
TICKS = 10
# between two looks at whether it was told to end, while it gets ready
LOOK_SECONDS = 0.2


def notify(state: str, *, wait: bool = False) -> None:
    """Tell systemd, if it listens (Type=notify); sd_notify(3).

    A systemd that is slow or gone must not hold up or end the service, so what cannot be sent at
    once is lost unless `wait` is set.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # a leading @ stands for the abstract namespace
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(wait)
        try:
            sender.sendto(state.encode("ascii"), target)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", state, error.strerror)


class Server(ListeningServer):
    """Reports readiness once it listens."""

    def __init__(
        self, config: uvicorn.Config, places: Places, service: Backend, keys: KeyRing | None
    ) -> None:
        super().__init__(config, places)
        self._service = service
        self._keys = keys

    @property
    def failed(self) -> bool:
        return self._service.failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if not await self._begin():
            return
        await super().startup(sockets)
        if threading.current_thread() is threading.main_thread():
            # without keys there is nothing to read again, and no reason to die of it
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        if self.started:
            logger.info("ready: %s", self._service.release.header)
            notify("READY=1", wait=True)

    async def _begin(self) -> bool:
        """Get ready, unless told to end meanwhile: an upstream may take minutes, or never come."""
        beginning = asyncio.create_task(self._service.begin())
        while not self.should_exit:
            done, _waiting = await asyncio.wait({beginning}, timeout=LOOK_SECONDS)
            if done:
                beginning.result()
                return True
        beginning.cancel()
        await asyncio.wait({beginning})
        await self._service.close()
        return False

    def _reload(self) -> None:
        if self._keys is not None:
            self._keys.reload()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0 and not self._service.stuck:
            notify("WATCHDOG=1")
        # an engine that has failed stays so; the next process gets a new one
        return await super().on_tick(counter) or self.failed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        self._service.drain()
        await super().shutdown(sockets)


def _key_ring(keys: KeySettings) -> KeyRing:
    return KeyRing(keys.file, keys.poll_seconds, keys.exempt_clients, keys.grace_seconds)


def _catalogue(model: ModelSettings) -> Catalogue:
    return Catalogue({model.name: model.aliases}, model.catalogue)


def _served(settings: Settings, keys: KeyRing | None) -> tuple[Backend, ASGIApp]:
    """What is served, verified, and the application around it."""
    model, engine = settings.model, settings.engine
    named = (model.store, model.name, model.version, model.public_key)
    encoders = load_encoders(settings, model.public_key)
    if settings.upstream is not None:
        upstream = Upstream(verify_checkpoint(*named), settings.upstream, model.aliases)
        return upstream, create_forwarding_app(upstream, keys, encoders, _catalogue(model))
    release = verify_release(*named, model.precision)
    logger.info("verified: %s", release.header)
    # Signed and yet not what this package reads: no restart changes that. What a host lacks for a
    # while (memory, a device) comes as one of the others, and is tried again.
    with third_party(release.graph, EngineError, PUBLISH_AGAIN, keep=PASSING):
        service = load(release, model, engine)
    return service, create_app(service, keys, encoders, _catalogue(model))


def _server(settings: Settings) -> Server:
    """All that can fail for a wrong setting or release fails here, before anything listens."""
    server = settings.server
    context = server_context(
        server.tls_certificate, server.tls_key, server.tls_client_ca, server.tls_client_crl
    )
    keys = _key_ring(settings.keys) if settings.keys else None
    service, app = _served(settings, keys)
    places = Places(server.connections)
    service.metrics.registry.register(ConnectionState(places))
    config = uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=checked_protocol(frozenset(server.allowed_clients), places),
        ssl_context_factory=lambda _config, _default: context,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        # longer than a gateway keeps an idle connection, so that it never reuses a closed one
        timeout_keep_alive=75,
        timeout_graceful_shutdown=server.drain_seconds,
    )
    return Server(config, places, service, keys)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-serve", description="Verify a release and serve it over mutual TLS."
    )
    parser.add_argument("--settings", required=True, type=Path, help="TOML file")
    options = parser.parse_args(argv)
    servers: list[Server] = []

    def prepare() -> None:
        settings = settings_file.read(options.settings)
        log_to(sys.stdout, as_json=settings.server.log_format == "json")
        servers.append(_server(settings))

    status = run("deepseek-serve", prepare, failure=EX_CONFIG)
    if status == 0:
        status = run("deepseek-serve", lambda: asyncio.run(servers[0].serve()))
        status = status or int(servers[0].failed)
    return status
