"""What requests say of their prompts, over HTTP: taken, refused by name, and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from parrot import TURNS, serve_parrot
from support import MODEL
from waiting import http_client

SWITCHED = (
    "{% if documents %}{{ documents | tojson }}{% endif %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS + "{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
USER = {"role": "user", "content": "a"}
CALLED = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"bed": 1}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "in bed 1"}]}


@pytest.fixture(scope="module")
def client(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prompts") / "graph"
    with serve_parrot(graph, folder, SWITCHED, "yes") as sdk:
        url = str(sdk.base_url).removesuffix("/v1/")
        with http_client(url) as client:
            yield client


def prompt(client: httpx.Client, *messages: Any, **more: Any) -> str:
    """What the model reads, which a request for an answer is begun with, too."""
    body = {"model": MODEL, "messages": list(messages), **more}
    tokens = client.post("/tokenize", json=body)
    assert tokens.status_code == 200, tokens.text
    reply = client.post("/v1/chat/completions", json={**body, "max_tokens": 1})
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] == tokens.json()["count"]
    text = client.post("/detokenize", json={"tokens": tokens.json()["tokens"]})
    return str(text.json()["prompt"])


ASKED = "<|im_start|>user\na<|im_end|>\n"
HEADER = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, HEADER),
        ({"enable_thinking": False}, f"{HEADER}<think></think>"),
        ({"thinking": {"type": "disabled"}}, f"{HEADER}<think></think>"),
        ({"thinking": False}, f"{HEADER}<think></think>"),
        ({"thinking": True}, HEADER),
        ({"reasoning_effort": "none"}, f"{HEADER}<think></think>"),
        ({"reasoning_effort": "high"}, HEADER),
        ({"chat_template_kwargs": {"enable_thinking": False}}, f"{HEADER}<think></think>"),
        # what is said to the template comes first
        ({"chat_template_kwargs": {"thinking": False}, "enable_thinking": True}, "</think>"),
        ({"add_generation_prompt": False}, ASKED),
        ({"chat_template": None, "chat_template_kwargs": None}, HEADER),
    ],
)
def test_parameters_of_prompts_reach_the_template(
    client: httpx.Client, more: dict[str, Any], ends: str
) -> None:
    assert prompt(client, USER, **more).endswith(ends)


def test_documents_and_their_marks_are_text(client: httpx.Client) -> None:
    documents = [{"title": "t", "text": "<|im_end|>"}]
    assert prompt(client, USER, documents=documents).startswith(json.dumps(documents))


@pytest.mark.parametrize("final", [{"prefix": True}, {}])
def test_a_final_message_is_continued(client: httpx.Client, final: dict[str, Any]) -> None:
    begun = {"role": "assistant", "content": "It is ", **final}
    more = {} if final else {"continue_final_message": True}
    assert prompt(client, USER, begun, **more) == f"{ASKED}{HEADER}It is "


def test_what_we_answer_is_taken_back(client: httpx.Client) -> None:
    text = prompt(client, USER, CALLED, RESULT)
    assert '<tool_call>{"bed": 1}</tool_call>' in text
    assert "None" not in text
    assert "in bed 1" in text
    thought = {"role": "assistant", "content": None, "reasoning_content": "cut in thou"}
    assert prompt(client, USER, thought, USER).count("user") == 2
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I do not."}]}
    assert "I do not." in prompt(client, USER, refused, USER)


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"chat_template": "x"}, "chat_template", "not supported"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", "cannot be"),
        ({"chat_template_kwargs": {"bos_token": ""}}, "chat_template_kwargs.bos_token", "tokens"),
        ({"chat_template_kwargs": {"unheard": 1}}, "chat_template_kwargs.unheard", "no variable"),
        ({"chat_template_kwargs": {"_x": 1}}, "chat_template_kwargs", "no name"),
        ({"chat_template_kwargs": {"x": ["a"] * 2000}}, "chat_template_kwargs", "more than"),
        ({"chat_template_kwargs": {"x": "a" * 70_000}}, "chat_template_kwargs", "more than"),
        (
            {"chat_template_kwargs": {f"x{n}": n for n in range(40)}},
            "chat_template_kwargs",
            "at most",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": "false"}},
            "chat_template_kwargs.enable_thinking",
            "expected a boolean",
        ),
        ({"thinking": {"type": []}}, "thinking", "'enabled'"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "reasoning_effort"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "exclude",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: httpx.Client, more: dict[str, Any], param: str, says: str
) -> None:
    body = {"model": MODEL, "messages": [USER], "max_tokens": 1, **more}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert says in error["message"]


def test_a_long_prompt_is_refused_in_the_words_that_clients_look_for(client: httpx.Client) -> None:
    long = {"role": "user", "content": "word " * 4000}
    for path, body in (
        ("chat/completions", {"messages": [long]}),
        ("completions", {"prompt": long["content"]}),
    ):
        error = client.post(f"/v1/{path}", json={"model": MODEL, **body}).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith(
            "This model's maximum context length is 2000 tokens. However, the prompt is too long: "
        )
