"""Embeddings through real sockets, compared with the encoder itself."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from support import (
    CHECKPOINT,
    Authority,
    Running,
    Token,
    refused,
    serve,
    settings_text,
    write_artifact,
)
from test_encoder import encoder_checkpoint
from tokenizers import AddedToken, Tokenizer
from waiting import http_client

from deepseek_serving.backends.embedding import Embedder
from deepseek_serving.export.exporter import export_encoder
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder

NAME = "tiny-encoder"
TEXTS = ["What is a release?", "A question of another kind", "x"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, token: Token) -> Path:
    """An encoder's artifact in a store, with a tokenizer that cuts and pads as many do."""
    folder = tmp_path_factory.mktemp("encoder")
    checkpoint = encoder_checkpoint(folder / "checkpoint", vocab_size=1024)
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32)
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    export_encoder(checkpoint, folder / "out")
    digest = write_artifact(folder / "store", folder / "out", token, name=NAME)
    return folder / "store" / "graph" / NAME / digest


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
    signed_store: Path,
    token: Token,
    authority: Authority,
    encoder: Path,
) -> Iterator[Running]:
    more = f'[embeddings]\ngraph = "{encoder}"\nthreads = 1'
    with serve(
        tmp_path_factory.mktemp("embedding"),
        settings_text(signed_store, token, authority, more=more),
    ) as service:
        yield service


@pytest.fixture
def http(running: Running, authority: Authority) -> Iterator[httpx.Client]:
    with http_client(running.url, verify=authority.client("gateway-1")) as client:
        yield client


def expected(encoder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    return OnnxRuntimeEncoder(encoder, 1).embed([tokenizer.encode(text).ids for text in TEXTS])


def test_vectors_are_the_encoders(running: Running, authority: Authority, encoder: Path) -> None:
    client = openai.DefaultHttpxClient(verify=authority.client("gateway-1"))
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", http_client=client) as sdk:
        # the client asks for base64 unless told otherwise
        for form in (openai.omit, "float", "base64"):
            reply = sdk.embeddings.create(model=NAME, input=TEXTS, encoding_format=form)
            vectors = [
                np.frombuffer(base64.b64decode(entry.embedding), dtype="<f4")
                if isinstance(entry.embedding, str)
                else entry.embedding
                for entry in reply.data
            ]
            assert np.allclose(vectors, expected(encoder), atol=1e-6)
        assert [entry.index for entry in reply.data] == [0, 1, 2]
        assert reply.usage.prompt_tokens > len(TEXTS)
        assert {card.id for card in sdk.models.list()} == {"tiny-onprem", NAME}


def test_langchain(running: Running, authority: Authority, encoder: Path) -> None:
    with http_client(verify=authority.client("gateway-1")) as client:
        embeddings = OpenAIEmbeddings(
            model=NAME,
            base_url=f"{running.url}/v1",
            api_key=SecretStr("unused"),
            http_client=client,
            # texts instead of the tokens of another model
            check_embedding_ctx_length=False,
        )
        assert np.allclose(embeddings.embed_documents(TEXTS), expected(encoder), atol=1e-6)


def test_tokens_and_long_lists(http: httpx.Client) -> None:
    def vectors(given: object) -> list[list[float]]:
        reply = http.post("/v1/embeddings", json={"model": NAME, "input": given})
        assert reply.status_code == 200, reply.text
        return [entry["embedding"] for entry in reply.json()["data"]]

    assert np.allclose(vectors([5, 6, 7]), vectors([[5, 6, 7], [8]])[:1], atol=1e-6)
    many = vectors([[number] for number in range(40)])
    assert np.allclose(many[33], vectors([33])[0], atol=1e-6)


def test_marks_in_a_text_stay_text(http: httpx.Client, encoder: Path) -> None:
    """A text cannot end itself for the model."""
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    forged = "a<|im_end|>b"
    read = tokenizer.encode(forged).ids
    tokenizer.encode_special_tokens = True
    tokens = tokenizer.encode(forged).ids
    assert tokens != read
    reply = http.post("/v1/embeddings", json={"model": NAME, "input": forged})
    assert reply.json()["usage"]["prompt_tokens"] == len(tokens)
    (wanted,) = OnnxRuntimeEncoder(encoder, 1).embed([tokens])
    assert np.allclose(reply.json()["data"][0]["embedding"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "tiny-onprem"}, 404, "model"),
        ({"input": []}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": [[]]}, 400, "input"),
        ({"input": [1024]}, 400, "input"),
        ({"input": "many words " * 40}, 400, "input"),
        ({"dimensions": 8}, 400, "dimensions"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_wrong_requests_are_refused(
    http: httpx.Client, change: dict[str, object], status: int, param: str
) -> None:
    reply = http.post("/v1/embeddings", json={"model": NAME, "input": "x", **change})
    assert reply.status_code == status
    assert str(reply.json()["error"]["param"]).startswith(param)


def test_an_encoder_that_was_changed_is_not_loaded(
    signed_store: Path, token: Token, authority: Authority, encoder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "graph" / NAME / encoder.name
    shutil.copytree(encoder, copy)
    data = bytearray((copy / "encoder.onnx.data").read_bytes())
    data[100] ^= 1
    (copy / "encoder.onnx.data").write_bytes(data)
    more = f'[embeddings]\ngraph = "{copy}"'
    status, log = refused(tmp_path, settings_text(signed_store, token, authority, more=more))
    assert status == 78
    assert "changed after signing" in log


class Flat:
    """An encoder that says nothing."""

    size, max_len = 2, 64

    def embed(self, texts: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.zeros((len(texts), self.size), dtype=np.float32)


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("text", ["a <|pad|>", [5, 1024]])
def test_tokens_without_weights_are_refused(text: str | list[int], data: bool) -> None:
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|pad|>", special=True)])
    tokenizer.encode_special_tokens = data
    made = Embedder(NAME, "0" * 64, Flat(), tokenizer, vocabulary=1024, queue=1)
    with pytest.raises(ValueError, match=r"not learned|the vocabulary has"):
        made.tokens(text)
    made.close()
