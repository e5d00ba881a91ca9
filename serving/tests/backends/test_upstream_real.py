"""`transformers serve` behind our service: a real server, which loads the signed checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from real_server import real_server
from support import (
    MODEL,
    Authority,
    Running,
    Token,
    command,
    free_port,
    serve,
    trained,
    upstream_settings,
)
from waiting import PATIENCE


@pytest.fixture(scope="module")
def transformers_url(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_store: Path
) -> Iterator[tuple[str, str]]:
    """Where it listens, and the name that it has for the model."""
    folder = tmp_path_factory.mktemp("transformers")
    (checkpoint,) = (checkpoint_store / "checkpoint" / MODEL).iterdir()
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    arguments = [command("transformers"), "serve", *options, str(checkpoint)]
    # importing torch beside other work takes it minutes
    with real_server(arguments, settings, folder / "log", port, PATIENCE) as client:
        yield str(client.base_url).rstrip("/"), str(checkpoint)


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_store: Path,
    token: Token,
    authority: Authority,
    transformers_url: tuple[str, str],
) -> Iterator[Running]:
    url, name = transformers_url
    text = upstream_settings(checkpoint_store, token, authority, url)
    text = text.replace('model = "behind"', f'model = "{name}"')
    with serve(tmp_path_factory.mktemp("front"), text) as running:
        yield running


@pytest.fixture
def sdk(front: Running, authority: Authority) -> Iterator[openai.OpenAI]:
    with (
        httpx2.Client(verify=authority.client("gateway-1")) as transport,
        openai.OpenAI(base_url=f"{front.url}/v1", api_key="-", http_client=transport) as client,
    ):
        yield client


def test_it_says_what_the_model_was_trained_to_say(sdk: openai.OpenAI) -> None:
    question, answer = trained()[0]
    reply = sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=200
    )
    assert reply.choices[0].message.content == answer
    assert reply.model == MODEL
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


def test_it_streams(sdk: openai.OpenAI) -> None:
    question, answer = trained()[0]
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert any(chunk.usage and chunk.usage.completion_tokens > 0 for chunk in chunks)
    assert len(chunks) > 10


def test_its_refusals_are_in_the_usual_shape(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="other", messages=[{"role": "user", "content": "?"}])
