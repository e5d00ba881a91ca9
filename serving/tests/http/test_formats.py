"""What an answer must look like, in all the ways that a request may ask for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from parrot import HERMES, Parrot
from support import MODEL, VERSION, serve_app
from waiting import http_client

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.validation import ReadChat, ReadCompletion
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

COMMON: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 40}
ASK: dict[str, Any] = {**COMMON, "messages": [{"role": "user", "content": "A release?"}]}
COMPLETE: dict[str, Any] = {**COMMON, "prompt": "A release:"}
NUMBER = {"const": 42}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<n>", "schema": NUMBER, "end": "</n>"}],
    "triggers": ["<n"],
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("find", "move")
]


@pytest.fixture(scope="module")
def client(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A model that would say something else."""
    folder = tmp_path_factory.mktemp("formats")
    for path in graph.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text(HERMES)
    tokenizer = ChatTokenizer(folder)
    said = [*tokenizer.encode("No <n>7"), 2]
    size = json.loads((folder / "export.json").read_text())["vocabulary"]
    scheduler = Scheduler(Parrot(said, size), Limits())
    service = Service(Release(MODEL, VERSION, "0" * 64, folder), scheduler, tokenizer)
    scheduler.start()
    with serve_app(create_app(service)) as url, http_client(url) as client:
        yield client


WAYS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object", "schema": NUMBER}}, "42"),
    ({"response_format": TAG}, "No <n>42</n>"),
    ({"structured_outputs": {"json": NUMBER}}, "42"),
    ({"structured_outputs": {"json": json.dumps(NUMBER)}}, "42"),
    ({"structured_outputs": {"regex": "4[2]"}}, "42"),
    ({"structured_outputs": {"choice": ["<think>"]}}, "<think>"),
    ({"structured_outputs": {"grammar": 'start: "4" "2"'}}, "42"),
    ({"structured_outputs": {"grammar": 'root ::= "4" "2"'}}, "42"),
    ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, "No <n>42</n>"),
    ({"guided_json": json.dumps(NUMBER)}, "42"),
    ({"guided_regex": "42"}, "42"),
    ({"guided_choice": ["42"]}, "42"),
    ({"guided_grammar": 'start: %json {"const": 42}'}, "42"),
]


def said(client: httpx.Client, body: dict[str, Any]) -> list[str]:
    """What the answers say."""
    chat = "messages" in body
    reply = client.post("/v1/chat/completions" if chat else "/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    choices = reply.json()["choices"]
    return [choice["message"]["content"] if chat else choice["text"] for choice in choices]


@pytest.mark.parametrize("ask", [ASK, COMPLETE], ids=["chat", "completion"])
@pytest.mark.parametrize(("asked", "content"), WAYS)
def test_an_answer_is_held_to_what_is_asked(
    client: httpx.Client, ask: dict[str, Any], asked: dict[str, Any], content: str
) -> None:
    (answer,) = said(client, {**ask, **asked})
    assert answer.startswith(content)


def test_every_answer_to_every_prompt_is_held_to_it(client: httpx.Client) -> None:
    asked = {"prompt": ["One:", "Two:"], "n": 2, "guided_choice": ["42"]}
    assert said(client, {**COMPLETE, **asked}) == ["42"] * 4


def test_what_is_given_back_of_the_prompt_is_not_held_to_it(client: httpx.Client) -> None:
    asked = {"echo": True, "logprobs": 1, "prompt_logprobs": 1, "guided_choice": ["42"]}
    assert said(client, {**COMPLETE, **asked}) == [COMPLETE["prompt"] + "42"]


def test_a_stream_of_a_completion_is_held_to_it(client: httpx.Client) -> None:
    body = {**COMPLETE, "stream": True, "guided_regex": "4[2]"}
    lines = client.post("/v1/completions", json=body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if "{" in line]
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == "42"
    assert choices[-1]["finish_reason"] == "stop"


# the parameter, and what its refusal says
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_regex": "(a{1000}){1000}"}, "guided_regex", "places"),
    ({"structured_outputs": {"regex": "(?=a)"}}, "structured_outputs", "look-around"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
    ({"guided_grammar": f"start: /{'(a{99})' * 9}{{999}}/"}, "guided_grammar", "places"),
    ({"guided_grammar": 'start: "a"{99999}'}, "guided_grammar", "repeats"),
    ({"guided_grammar": 'start: %json {"multipleOf": 1000003}'}, "guided_grammar", "multipleOf"),
    ({"guided_grammar": '%llguidance {}\nstart: "a"'}, "guided_grammar", "%llguidance"),
    ({"guided_grammar": "root ::= " + "(" * 4000}, "guided_grammar", ""),
    ({"guided_grammar": "root ::= " + "a " * 9000}, "guided_grammar", "at most 8000"),
    ({"guided_choice": ["x" * 60_000] * 3}, "guided_choice", "characters"),
    ({"response_format": TAG, "tools": TOOLS}, "response_format", "with tools"),
]


@pytest.mark.parametrize(
    ("path", "ask", "asked", "param", "message"),
    [
        *(("/v1/chat/completions", ASK, *row) for row in REFUSED),
        *(("/v1/completions", COMPLETE, *row) for row in REFUSED if "tools" not in row[0]),
    ],
)
def test_what_cannot_be_held_is_refused_by_its_name(
    client: httpx.Client,
    path: str,
    ask: dict[str, Any],
    asked: dict[str, Any],
    param: str,
    message: str,
) -> None:
    reply = client.post(path, json={**ask, **asked})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error
    assert message in error["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"guided_json": NUMBER, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        (
            {"structured_outputs": {"whitespace_pattern": "a"}},
            "structured_outputs.whitespace_pattern",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"response_format": {**TAG, "triggers": ["x"]}}, "response_format"),
        (
            {"response_format": {"type": "structural_tag", "format": {}}},
            "response_format.structures",
        ),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "lose"}}],
                    },
                },
            },
            "tool_choice",
        ),
    ],
)
def test_a_body_that_asks_for_no_format_or_for_several_is_refused(
    asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        ReadChat().read(json.dumps({**ASK, **asked}).encode())
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"guided_json": NUMBER, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"max_tokens": 0, "guided_regex": "a"}, "guided_regex"),
        ({"max_tokens": 0, "echo": True, "response_format": TAG}, "response_format"),
        ({"max_tokens": 0, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
def test_a_completion_is_refused_where_a_format_says_nothing_of_an_answer(
    asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        ReadCompletion().read(json.dumps({**COMPLETE, **asked}).encode())
    assert refused.value.param == param


def test_free_text_is_a_format_of_every_completion() -> None:
    body = {**COMPLETE, "max_tokens": 0, "response_format": {"type": "text"}}
    assert ReadCompletion().read(json.dumps(body).encode()).answer_format is None


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_all_that_there_are(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "move"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = json.dumps({**ASK, "tools": TOOLS, "tool_choice": choice}).encode()
    tools = ReadChat().read(body).called_tools
    assert tools is not None
    assert [function["name"] for function in tools.functions] == ["move"]
    assert tuple(tools.force) == (("move",) if mode == "required" else ())
