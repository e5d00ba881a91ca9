"""The service that client libraries are driven against.

    python clients_site.py DIRECTORY [GATEWAY WORKER_PORT GATEWAY_PORT]

Everything of a real one but the model and its signature: TLS with a private authority, API keys
and their rates, admission, templates, grammars, scheduler. It listens twice, as the gateway does:
where an API key is enough, and where a client certificate is asked for as well. With a GATEWAY, the
directory that gateway_for_clients.py has prepared, the second is its worker, and clients are told
of the gateway. What they must know is written to DIRECTORY/site.json once all are ready; it ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import conversation
import httpx
import numpy as np
import numpy.typing as npt
import uvicorn
from scripted_model import ScriptedModel
from starlette.types import ASGIApp
from support import CHECKPOINT, MODEL, VERSION, Authority, free_port
from tokenizers import AddedToken, Tokenizer

from deepseek_serving.backends.embedding import Embedder
from deepseek_serving.backends.encoders import Encoders
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.policy import keys
from deepseek_serving.policy.keys import KeyRing
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

HERE = Path(__file__).parent
NAME, ENCODER = "gateway-1", "tiny-encoder"
MAX_LEN = 8192
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
# what may be used up in a fraction of a second, and comes back in one
PER_MINUTE = 60
# more than there are clients that use up a key each
LIMITED_KEYS = 40


class ScriptedEncoder:
    """A vector of length 1 for each text, by its tokens alone."""

    size, max_len = 8, 256

    def embed(self, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        rows = [hashlib.sha256(repr(list(text)).encode()).digest()[: self.size] for text in texts]
        values = np.array([list(row) for row in rows], dtype=np.float32) + 1
        unit: npt.NDArray[np.float32] = values / np.linalg.norm(values, axis=1, keepdims=True)
        return unit


def model_files(folder: Path) -> Path:
    """The shipped tokenizer with the marks of Qwen3 as tokens of their own, and such a template."""
    folder.mkdir()
    for path in CHECKPOINT.glob("*.json"):
        shutil.copy(path, folder)
    shutil.copy(HERE / "chat_template.jinja", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    record = {"vocabulary": tokenizer.get_vocab_size()}
    (folder / "export.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def application(folder: Path, ring: KeyRing) -> ASGIApp:
    files = model_files(folder / "model")
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    chat = ChatTokenizer(files)
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False).ids
    scheduler = Scheduler(ScriptedModel(tokenizer, MAX_LEN, end), Limits(prefill_chunk=4096))
    service = Service(Release(MODEL, VERSION, "0" * 64, files), scheduler, chat)
    scheduler.start()
    embedder = Embedder(
        ENCODER,
        "0" * 64,
        ScriptedEncoder(),
        tokenizer,
        vocabulary=tokenizer.get_vocab_size(),
        queue=16,
    )
    return create_app(service, ring, Encoders(embedder))


def _listener(app: ASGIApp, context: ssl.SSLContext, port: int, lifespan: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        ssl_context_factory=lambda _config, _default: context,
    )
    return uvicorn.Server(config)


async def _until_closed() -> None:
    await asyncio.to_thread(sys.stdin.read)


@dataclass(frozen=True)
class Front:
    """A gateway to be, and where it expects its worker."""

    directory: Path
    worker_port: int
    port: int

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """HAProxy, from when it has found its worker on."""
        program = shutil.which("haproxy", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
        assert program, "haproxy is needed for these tests: run tests/packages"
        process = await asyncio.create_subprocess_exec(
            *(program, "-db", "-f", str(self.directory / "clients/haproxy.cfg")),
            env={**os.environ, "GATEWAY_CLIENT_DIR": str(self.pki)},
            cwd=self.directory / "clients",
        )
        try:
            context = ssl.create_default_context(cafile=self.pki / "ca.pem")
            async with httpx.AsyncClient(verify=context) as client:
                while not await self._is_ready(client):
                    assert process.returncode is None, "haproxy has ended"
                    await asyncio.sleep(0.05)
            yield
        finally:
            process.kill()
            await process.wait()

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(f"https://localhost:{self.port}/health")).is_success
        return False


async def run(folder: Path, front: Front | None) -> None:
    authority = Authority(folder)
    file = folder / "keys.json"
    key = keys.add(file, "clients")
    limited = [
        keys.add(file, f"limited {number}", requests_per_minute=PER_MINUTE)
        for number in range(LIMITED_KEYS)
    ]
    context, mutual = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _listener in range(2))
    context.load_cert_chain(*authority.issue("inference-1"))
    if front is None:
        mutual.load_cert_chain(*authority.issue("inference-1"))
        mutual.load_verify_locations(authority.ca)
    else:
        mutual.load_cert_chain(front.pki / "worker.pem")
        mutual.load_verify_locations(front.pki / "ca.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    app = application(folder, KeyRing(file))
    ports = free_port(), free_port() if front is None else front.worker_port
    servers = (
        _listener(app, context, ports[0], "on"),
        _listener(app, mutual, ports[1], "off"),
    )
    serving = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.01)
    certificate, private = authority.issue(NAME)
    site = {
        "base_url": f"https://127.0.0.1:{ports[0]}/v1" if front is None else front.base_url,
        "mutual_url": f"https://127.0.0.1:{ports[1]}/v1",
        "ca": str(authority.ca if front is None else front.pki / "ca.pem"),
        "certificate": str(certificate),
        "key_file": str(private),
        "key": key,
        "limited": limited,
        "model": MODEL,
        "encoder": ENCODER,
        "conversation": {
            name: value for name, value in vars(conversation).items() if name.isupper()
        },
    }
    async with front.running() if front is not None else contextlib.nullcontext():
        partial = folder / "site.partial"
        partial.write_text(json.dumps(site), encoding="utf-8")
        partial.rename(folder / "site.json")
        await _until_closed()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving)


if __name__ == "__main__":
    gateway = sys.argv[2:]
    front = Front(Path(gateway[0]), int(gateway[1]), int(gateway[2])) if gateway else None
    asyncio.run(run(Path(sys.argv[1]), front))
