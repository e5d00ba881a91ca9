"""deepseek-serve as a process: readiness, and a shutdown that finishes what has begun."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import httpx
from support import MODEL, Authority, Token, serve, settings_text


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
                httpx.Client(verify=context, timeout=30) as client,
                client.stream("POST", url, json=body) as response,
            ):
                for line in response.iter_lines():
                    lines.append(line)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(10)
        running.process.send_signal(signal.SIGTERM)
        reader.join(20)
        assert running.process.wait(10) in (0, -signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        last = json.loads([line for line in lines if line][-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] in ("stop", "length")


def test_the_log_has_no_prompt_and_no_traceback(
    signed_store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    with serve(tmp_path, settings_text(signed_store, token, authority)) as running:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "my secret illness"}]}
        with httpx.Client(base_url=running.url, verify=authority.client("gateway-1")) as client:
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            client.get("/readyz")
    log = running.log.read_text(encoding="utf-8")
    assert "gateway-1 POST '/v1/chat/completions' 200" in log
    assert "verified: tiny-onprem/1.0.0@" in log
    for absent in ("illness", "Traceback", "readyz"):
        assert absent not in log
