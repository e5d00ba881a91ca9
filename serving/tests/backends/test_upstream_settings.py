"""Which upstreams a service starts with: their address, their key, their checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import MODEL, Authority, Token, free_port, refused, serve, serve_app, upstream_settings
from upstream_server import ASK, CHAT, UpstreamServer
from waiting import http_client

# Every user of a host can reach a port of it, but not ask behind a key


def test_an_upstream_is_asked_with_its_key(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = UpstreamServer()
    server.key = "upstream-key-of-the-test"
    key_file = tmp_path / "upstream.key"
    key_file.write_text(f"{server.key}\n", encoding="ascii")
    text = upstream_settings(
        checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}"
    ).replace("allow_without_key = true", f'key_file = "{key_file}"')
    with serve_app(server.app, server.port), serve(tmp_path, text) as running:
        with http_client(running.url, verify=authority.client("gateway-1")) as http:
            # what a client sends is its own key, and goes no further
            headers = {"authorization": "Bearer of-the-client"}
            assert http.post(CHAT, json=ASK, headers=headers).status_code == 200
        assert server.key not in running.log.read_text(encoding="utf-8")


def test_an_upstream_that_every_user_can_ask_is_not_used(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    server = UpstreamServer()
    text = upstream_settings(
        checkpoint_store, token, authority, f"http://127.0.0.1:{server.port}"
    ).replace("allow_without_key = true", "start_seconds = 0.5")
    with serve_app(server.app, server.port):
        status, log = refused(tmp_path, text)
    assert status == 1
    assert "answers without a key (status 200), so every user of this host can ask it" in log
    assert "unix:/PATH" in log


@pytest.mark.parametrize("content", ["", "two words\n", "\x00", None])
def test_a_key_of_the_upstream_that_is_none_is_refused(
    tmp_path: Path,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    content: str | None,
) -> None:
    key_file = tmp_path / "upstream.key"
    if content is not None:
        key_file.write_text(content, encoding="ascii")
    text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
    text = text.replace("allow_without_key = true", f'key_file = "{key_file}"')
    status, log = refused(tmp_path, text)
    assert status == 78
    assert f"upstream.key_file: {key_file}" in log
    assert "Traceback" not in log


def test_a_server_that_never_comes_is_not_waited_for_forever(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    text = upstream_settings(checkpoint_store, token, authority, url) + "start_seconds = 0.2\n"
    status, log = refused(tmp_path, text)
    assert status == 1
    assert f"upstream.url: {url} was not ready within 0.2 s; look at its own log" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://localhost:80"]
)
def test_nothing_leaves_the_host_unencrypted(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority, url: str
) -> None:
    status, log = refused(tmp_path, upstream_settings(checkpoint_store, token, authority, url))
    assert status == 78
    assert "upstream.url: must be http://127.0.0.1:PORT" in log


def test_a_socket_of_the_file_system_will_do(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    url = f"unix:{tmp_path}/none"
    text = upstream_settings(checkpoint_store, token, authority, url) + "start_seconds = 0.2\n"
    status, log = refused(tmp_path, text)
    assert (status, "was not ready within" in log) == (1, True)


def test_the_engine_is_named_once(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
    status, log = refused(tmp_path, text.replace('kind = "upstream"', 'kind = "onnxruntime"'))
    assert status == 78
    assert 'engine.kind = "upstream" and the section [upstream] come together' in log


def test_a_checkpoint_that_was_changed_is_not_served(
    tmp_path: Path, checkpoint_store: Path, token: Token, authority: Authority
) -> None:
    (manifest,) = (checkpoint_store / "checkpoint" / MODEL).glob("*/manifest.json")
    kept = manifest.read_bytes()
    manifest.write_bytes(kept.replace(b'"tests"', b'"other"'))
    try:
        text = upstream_settings(checkpoint_store, token, authority, "http://127.0.0.1:1")
        status, log = refused(tmp_path, text)
    finally:
        manifest.write_bytes(kept)
    assert status == 78
    assert f"{manifest}: changed after signing" in log
