"""Keys, scopes, rates and quotas, through real sockets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import waiting
from hypothesis import given
from hypothesis import strategies as st
from support import MODEL, Authority, Running, Token, refused, serve, settings_text
from waiting import http_client

from deepseek_serving.http.headers import repeated
from deepseek_serving.policy import keys

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "What is a release?"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.add(path, "the first")
    return path


@pytest.fixture(scope="module")
def keyed(
    tmp_path_factory: pytest.TempPathFactory,
    signed_store: Path,
    token: Token,
    authority: Authority,
    key_file: Path,
) -> Iterator[Running]:
    more = f'[keys]\nfile = "{key_file}"\npoll_seconds = 0.05\nexempt_clients = ["inference-1"]'
    text = settings_text(signed_store, token, authority, more=more)
    text = text.replace('["gateway-1"]', '["gateway-1", "inference-1"]')
    with serve(tmp_path_factory.mktemp("keyed"), text) as running:
        yield running


@pytest.fixture
def http(keyed: Running, authority: Authority) -> Iterator[httpx.Client]:
    with http_client(keyed.url, verify=authority.client("gateway-1")) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def status(http: httpx.Client, key: str) -> int:
    return http.get("/v1/models", headers=bearer(key)).status_code


def until(http: httpx.Client, key: str, wanted: int) -> None:
    waiting.until(lambda: status(http, key) == wanted)


def test_without_a_key_in_force_there_is_no_answer(http: httpx.Client, key_file: Path) -> None:
    good = keys.add(key_file, "good")
    until(http, good, 200)
    other = good[:-1] + ("A" if good[-1] != "A" else "B")
    assert [status(http, key) for key in (other, "sk-1", "-", good[:20])] == [401] * 4
    reply = http.post(CHAT, json=ASK)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "x-request-id" in reply.headers
    assert http.get("/v1/models", headers={"authorization": f"Basic {good}"}).status_code == 401
    # probes and the document are for every client with a certificate
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_the_sdk_raises_its_own_error(keyed: Running, authority: Authority) -> None:
    client = openai.DefaultHttpxClient(verify=authority.client("gateway-1"))
    with (
        openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", http_client=client) as sdk,
        pytest.raises(openai.AuthenticationError, match="unknown here, revoked or expired"),
    ):
        sdk.models.list()


def test_a_scope_is_all_that_a_key_may_do(http: httpx.Client, key_file: Path) -> None:
    key = keys.add(key_file, "lister", scopes=["models"])
    until(http, key, 200)
    assert http.get(f"/v1/models/{MODEL}", headers=bearer(key)).status_code == 200
    for path in (CHAT, "/v1/responses", "/v1/completions", "/v1/embeddings"):
        reply = http.post(path, json=ASK, headers=bearer(key))
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "insufficient_scope"


def test_the_hosts_own_certificate_needs_no_key(
    keyed: Running, http: httpx.Client, authority: Authority
) -> None:
    with http_client(keyed.url, verify=authority.client("inference-1")) as own:
        assert own.post(CHAT, json={**ASK, "max_tokens": 3}).status_code == 200
    assert http.post(CHAT, json={**ASK, "max_tokens": 3}).status_code == 401


def test_keys_come_and_go_without_a_restart(http: httpx.Client, key_file: Path) -> None:
    old = keys.add(key_file, "old")
    until(http, old, 200)
    new = keys.add(key_file, "new")
    until(http, new, 200)
    assert status(http, old) == 200
    keys.revoke(key_file, old.split("-")[1])
    until(http, old, 401)
    assert status(http, new) == 200


def test_a_wrong_file_changes_nothing_and_is_logged(
    http: httpx.Client, key_file: Path, keyed: Running
) -> None:
    key = keys.add(key_file, "stays")
    until(http, key, 200)
    good = key_file.read_bytes()
    key_file.write_text('{"schema": 1, "keys": [{"id": "x"}]}')

    def refused() -> bool:
        assert status(http, key) == 200
        return "the keys of before stay in force" in keyed.log.read_text(encoding="utf-8")

    waiting.until(refused)
    key_file.write_bytes(good)
    assert status(http, key) == 200
    assert key not in keyed.log.read_text(encoding="utf-8")


def test_a_file_of_keys_that_is_gone_lets_nobody_in(
    http: httpx.Client, key_file: Path, tmp_path: Path
) -> None:
    key = keys.add(key_file, "goes")
    until(http, key, 200)
    away = key_file.rename(tmp_path / "away.json")
    until(http, key, 401)
    away.rename(key_file)
    until(http, key, 200)
    assert "deepseek_api_keys_broken_seconds 0.0" in http.get("/metrics").text


# One reader of each header


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Request-Id", "content-type", "X-Forwarded-For"]
)
def test_a_header_that_decides_is_sent_once(
    http: httpx.Client, key_file: Path, keyed: Running, name: str
) -> None:
    key = keys.add(key_file, "twice")
    until(http, key, 200)
    right = {"Authorization": f"Bearer {key}", "content-type": "application/json"}
    right |= {"X-Request-Id": "one", "X-Forwarded-For": "192.0.2.1"}
    headers = [*right.items(), (name, right[name]), ("accept", "*/*"), ("accept", "text/plain")]
    content = json.dumps({**ASK, "max_tokens": 1})
    reply = http.post(CHAT, content=content, headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "duplicate_header"
    assert repr(name.lower()) in reply.json()["error"]["message"]
    assert http.post(CHAT, content=content, headers=right).status_code == 200


@given(st.lists(st.sampled_from(["host", "Host", "accept", "x-api-key", "X-Api-KEY", "cookie"])))
def test_a_header_is_repeated_however_it_is_written(names: list[str]) -> None:
    scope = {"headers": [(name.encode(), b"x") for name in names]}
    lower = [name.lower() for name in names]
    wanted = {name for name in lower if lower.count(name) > 1} - {"accept"}
    assert repeated(scope) == sorted(wanted)


def test_requests_per_minute(http: httpx.Client, key_file: Path) -> None:
    key = keys.add(key_file, "slow", requests_per_minute=2)
    until(http, key, 200)
    replies = [http.post(CHAT, json={**ASK, "max_tokens": 1}, headers=bearer(key)) for _n in "abc"]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [r.headers["x-ratelimit-remaining-requests"] for r in replies] == ["1", "0", "0"]
    last = replies[-1]
    assert last.headers["x-ratelimit-limit-requests"] == "2"
    assert 0 < float(last.headers["x-ratelimit-reset-requests"].rstrip("s")) <= 60
    assert 1 <= int(last.headers["retry-after"]) <= 30
    assert last.json()["error"]["code"] == "rate_limit_exceeded"
    assert last.json()["error"]["type"] == "requests"
    # looking at the models costs nothing
    assert status(http, key) == 200


def test_tokens_per_minute(http: httpx.Client, key_file: Path) -> None:
    key = keys.add(key_file, "frugal", tokens_per_minute=100)
    until(http, key, 200)

    def ask(**more: object) -> httpx.Response:
        return http.post(CHAT, json={**ASK, **more}, headers=bearer(key))

    greedy = ask(max_tokens=400)
    assert (greedy.status_code, greedy.json()["error"]["code"]) == (400, "request_exceeds_quota")
    began = time.monotonic()
    first = ask(max_tokens=60)
    assert first.status_code == 200
    used = first.json()["usage"]["total_tokens"]
    # what was reserved and not used is given back when the answer is complete
    left = int(ask(max_tokens=10**9).headers["x-ratelimit-remaining-tokens"])
    # and as many come back as time has passed
    assert 100 - used <= left <= 100 - used + 1 + (time.monotonic() - began) * 100 / 60
    refused = [ask(max_tokens=60) for _request in range(3)][-1]
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "tokens"
    assert int(refused.headers["retry-after"]) >= 1


def test_the_log_names_the_key_and_not_its_secret(
    http: httpx.Client, key_file: Path, keyed: Running
) -> None:
    key = keys.add(key_file, "logged")
    until(http, key, 200)
    http.get("/v1/models", headers={**bearer(key), "x-request-id": "ward-3:42"})
    # written once the answer is on its way
    waiting.until(lambda: "ward-3:42" in keyed.log.read_text(encoding="utf-8"))
    log = keyed.log.read_text(encoding="utf-8")
    assert key.split("-")[1] in log
    assert key.split("-", 2)[2] not in log


def test_the_document_asks_for_a_key(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"][CHAT]["post"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("nonsense", "Invalid JSON"),
        (json.dumps({"schema": 2, "keys": []}), "schema"),
    ],
)
def test_a_wrong_file_keeps_the_service_from_starting(
    signed_store: Path,
    token: Token,
    authority: Authority,
    tmp_path: Path,
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    more = f'[keys]\nfile = "{path}"'
    code, log = refused(tmp_path, settings_text(signed_store, token, authority, more=more))
    assert code == os.EX_CONFIG
    assert message in log
    assert "Traceback" not in log


# Without keys, the gateway's word tells clients apart


def cached(http: httpx.Client, question: str, client: str | None) -> int:
    headers = {"x-deepseek-client": client} if client is not None else {}
    ask = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 1}
    reply = http.post(CHAT, json=ask, headers=headers)
    assert reply.status_code == 200
    return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_without_keys_no_client_sees_what_another_has_asked(
    tmp_path: Path, signed_store: Path, token: Token, authority: Authority
) -> None:
    text = settings_text(signed_store, token, authority, engine="slots = 4\nprefill_chunk = 4")
    text = text.replace('["gateway-1"]', '["gateway-1", "inference-1"]')
    with (
        serve(tmp_path, text) as running,
        http_client(running.url, verify=authority.client("gateway-1")) as http,
        http_client(running.url, verify=authority.client("inference-1")) as other,
    ):
        question = "What is a release?"
        assert cached(http, question, "192.0.2.1") == 0
        assert cached(http, question, "192.0.2.1") > 0
        assert cached(http, question, "192.0.2.2") == 0
        assert cached(http, question, "2001:db8::/64") == 0
        assert cached(http, question, None) == 0
        # what it says of itself stays within its own certificate's name
        assert cached(other, question, "192.0.2.1") == 0
        assert cached(other, question, "x" * 4000) == 0
        labels = http.get("/metrics").text
        assert 'key="gateway-1"' in labels
        assert "192.0.2" not in labels
