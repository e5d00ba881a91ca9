"""deepseek-serve as a process: readiness, and a shutdown that finishes what has begun."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from support import (
    MODEL,
    Authority,
    Token,
    free_port,
    serve,
    serve_app,
    settings_text,
    without_logits,
)
from waiting import PATIENCE, http_client, until

from deepseek_serving.backends.local import Service, gives_logits
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.http.connections import Places
from deepseek_serving.policy import keys
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.server import Server
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release


def test_sigterm_finishes_answers_that_have_begun(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    text = settings_text(signed_store, token, authority)
    with serve(tmp_path, text) as running:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Tell me something"}],
            "temperature": 2,
            "seed": 1,
            "max_tokens": 300,
            "stream": True,
        }
        lines: list[str] = []
        begun = threading.Event()

        def read() -> None:
            context = authority.client("gateway-1")
            url = f"{running.url}/v1/chat/completions"
            with (
                http_client(verify=context) as client,
                client.stream("POST", url, json=body) as response,
            ):
                for line in response.iter_lines():
                    lines.append(line)
                    begun.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        assert begun.wait(PATIENCE)
        running.process.send_signal(signal.SIGTERM)
        reader.join(PATIENCE)
        assert running.process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        last = json.loads([line for line in lines if line][-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] in ("stop", "length")


def test_the_log_has_no_prompt_and_no_traceback(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    with serve(tmp_path, settings_text(signed_store, token, authority)) as running:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "my secret illness"}]}
        with http_client(running.url, verify=authority.client("gateway-1")) as client:
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            client.get("/readyz")
    log = running.log.read_text(encoding="utf-8")
    assert "gateway-1 POST '/v1/chat/completions' 200" in log
    assert "verified: tiny-onprem/1.0.0@" in log
    for absent in ("illness", "Traceback", "readyz"):
        assert absent not in log


def test_an_idle_connection_does_not_hold_up_the_end(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    """Its client neither asks nor answers, as a pool's connection between requests."""
    with (
        serve(tmp_path, settings_text(signed_store, token, authority)) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as client,
    ):
        assert client.get("/readyz").status_code == 200
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_a_signal_has_keys_read_again(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    keys.add(path, "first")
    more = f'[keys]\nfile = "{path}"\npoll_seconds = 3600'
    text = settings_text(signed_store, token, authority, more=more)
    with serve(tmp_path, text) as running:
        sent = {"authorization": f"Bearer {keys.add(path, 'second')}"}
        with http_client(running.url, verify=authority.client("gateway-1")) as client:
            assert client.get("/v1/models", headers=sent).status_code == 401
            running.process.send_signal(signal.SIGHUP)
            until(lambda: client.get("/v1/models", headers=sent).status_code == 200)
    assert "2 API keys in force" in running.log.read_text(encoding="utf-8")


def test_a_signal_without_keys_changes_nothing(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    with serve(tmp_path, settings_text(signed_store, token, authority)) as running:
        running.process.send_signal(signal.SIGHUP)
        with http_client(running.url, verify=authority.client("gateway-1")) as client:
            assert client.get("/readyz").status_code == 200


def test_the_log_as_json(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    text = settings_text(signed_store, token, authority)
    text = text.replace("[model]", 'log_format = "json"\n\n[model]')
    with serve(tmp_path, text) as running:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "my secret illness"}]}
        with http_client(running.url, verify=authority.client("gateway-1")) as client:
            sent = {"x-request-id": "ward-3"}
            assert client.post("/v1/chat/completions", json=body, headers=sent).status_code == 200
    lines = running.log.read_text(encoding="utf-8").splitlines()
    (entry,) = [e for line in lines if (e := json.loads(line)).get("request_id") == "ward-3"]
    assert (entry["client"], entry["method"], entry["status"]) == ("gateway-1", "POST", 200)
    assert (entry["level"], entry["path"], entry["key"]) == ("info", "/v1/chat/completions", "-")
    assert not any("illness" in line for line in lines)


class Breaking:
    """An engine that works until its first decode step after the warm-up."""

    slots, max_len = 1, 200

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.broken = False

    def _answer(self, count: int) -> Candidates:
        best = np.full((count, 1), 5, dtype=np.int64)
        return Candidates(np.zeros((count, 1), dtype=np.float32), best)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        return self._answer(1)

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        if self.broken:
            raise self._error
        return self._answer(len(tokens))

    def logits(self) -> npt.NDArray[np.float32]:
        return np.zeros((1, 1024), dtype=np.float32)

    def reset(self) -> None:
        pass

    def clear(self, slot: int) -> None:
        pass


def begin(service: Service) -> tuple[Server, threading.Thread]:
    """A server in a thread, which may not be ready yet."""
    config = uvicorn.Config(
        create_app(service), host="127.0.0.1", port=free_port(), log_config=None
    )
    server = Server(config, Places(), service, None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    return server, thread


@pytest.mark.parametrize("error", [RuntimeError("the device was lost"), MemoryError()])
def test_an_engine_that_fails_ends_its_answers_and_the_process(
    graph: Path, error: Exception
) -> None:
    """The client gets an event with an error; systemd starts the service again."""
    engine = Breaking(error)
    scheduler = Scheduler(engine)
    release = Release(MODEL, "1.0.0", "0" * 64, graph)
    service = Service(release, scheduler, ChatTokenizer(graph))
    scheduler.start()
    server, thread = begin(service)
    until(lambda: server.started)
    engine.broken = True
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
    url = f"http://127.0.0.1:{server.config.port}/v1/chat/completions"
    with http_client() as client, client.stream("POST", url, json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert server.failed


class Unready(Service):
    """A backend whose upstream does not come."""

    begun = threading.Event()

    async def begin(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()


def test_a_service_that_is_told_to_end_before_it_is_ready_ends(graph: Path) -> None:
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=1))
    service = Unready(Release(MODEL, "1.0.0", "0" * 64, graph), scheduler, ChatTokenizer(graph))
    scheduler.start()
    server, thread = begin(service)
    assert service.begun.wait(PATIENCE)
    # what uvicorn does on SIGTERM
    server.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not server.started


def test_a_graph_of_an_earlier_export_answers_and_refuses_what_needs_its_logits(
    graph: Path, tmp_path: Path
) -> None:
    folder = without_logits(graph, tmp_path / "graph")
    engine = OnnxRuntimeEngine(folder, threads=1)
    assert not gives_logits(engine)
    assert gives_logits(OnnxRuntimeEngine(graph, threads=1))
    scheduler = Scheduler(engine)
    release = Release(MODEL, "1.0.0", "0" * 64, folder)
    service = Service(release, scheduler, ChatTokenizer(folder), has_logits=False)
    scheduler.start()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    with serve_app(create_app(service)) as url, http_client(url) as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        wanting: list[dict[str, object]] = [
            {"logprobs": True},
            {"frequency_penalty": 1},
            {"logit_bias": {"5": 1}},
            {"response_format": {"type": "json_object"}},
        ]
        for change in wanting:
            reply = client.post("/v1/chat/completions", json={**body, **change})
            assert reply.status_code == 400
            assert "gives no logits" in reply.json()["error"]["message"]
