"""What Codex sends and reads: a turn with a call, the turn after it, and the tools of OpenAI's own.

The bodies are as Codex CLI writes them to a provider whose `wire_api` is `responses`, with shorter
texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from parrot import HERMES, serve_parrot
from support import MODEL
from waiting import PATIENCE

THOUGHT, TEXT = "Which files are there?", "I look."
ARGUMENTS = '{"command": ["bash", "-lc", "ls"]}'
SAID = (
    f"{THOUGHT}</think>\n\n{TEXT}"
    f'<tool_call>\n{{"name": "shell", "arguments": {ARGUMENTS}}}\n</tool_call>'
)
SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a shell command and returns its output.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {
            "command": {"type": "array", "items": {"type": "string"}, "description": "The command"},
            "workdir": {"type": "string", "description": "Where it runs"},
            "timeout_ms": {"type": "number", "description": "Time that it may take"},
        },
        "required": ["command"],
        "additionalProperties": False,
    },
}
STATUS = {"type": "string", "description": "One of: pending, in_progress, completed"}
STEP = {"type": "object", "properties": {"step": {"type": "string"}, "status": STATUS}}
PLAN = {
    "type": "function",
    "name": "update_plan",
    "description": "Updates the task plan.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {
            "explanation": {"type": "string"},
            "plan": {"type": "array", "items": STEP, "description": "The list of steps"},
        },
        "required": ["plan"],
        "additionalProperties": False,
    },
}
ENVIRONMENT = "<environment_context>\n  <cwd>/srv/ward</cwd>\n</environment_context>"
HEADERS = {
    "accept": "text/event-stream",
    "openai-beta": "responses=experimental",
    "originator": "codex_cli_rs",
    "user-agent": "codex_cli_rs/0.80.0 (Debian 12.0.0; x86_64) xterm",
    "conversation_id": "0198c0de-0000-7000-8000-000000000000",
    "session_id": "0198c0de-0000-7000-8000-000000000000",
    "x-codex-turn-metadata": "{}",
}


def said_by(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def body(*more: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A turn whose input ends in `more`."""
    return {
        "model": MODEL,
        "instructions": "You are a coding agent.",
        "input": [
            said_by("developer", "<permissions instructions>Ask first.</permissions instructions>"),
            said_by("user", ENVIRONMENT),
            said_by("user", "What is in here?"),
            *more,
        ],
        "tools": [SHELL, PLAN],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0198c0de-0000-7000-8000-000000000000",
        "text": {"verbosity": "low"},
        "service_tier": None,
        "client_metadata": {"x-codex-installation-id": "0198c0de-0000-7000-8000-000000000001"},
        **changed,
    }


@pytest.fixture(scope="module")
def client(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("codex") / "graph"
    with (
        serve_parrot(graph, folder, HERMES + "<think>\n", SAID) as sdk,
        httpx.Client(
            base_url=str(sdk.base_url),
            headers={**HEADERS, "authorization": "Bearer -"},
            timeout=PATIENCE,
        ) as client,
    ):
        yield client


def events_of(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    parts = [part.split("\ndata: ") for part in reply.text.strip().split("\n\n")]
    events = [json.loads(data) for _name, data in parts]
    assert [name for name, _data in parts] == [f"event: {event['type']}" for event in events]
    return events


def sent_back(item: dict[str, Any]) -> dict[str, Any]:
    """An item as Codex keeps it: without ids, and thoughts as what is encoded alone."""
    kept: dict[str, tuple[str, ...]] = {
        "reasoning": ("type", "summary", "encrypted_content"),
        "message": ("type", "role", "content"),
        "function_call": ("type", "name", "arguments", "call_id"),
    }
    back = {name: item[name] for name in kept[item["type"]]}
    return {**back, "content": None} if item["type"] == "reasoning" else back


def test_a_turn_and_the_one_after_it(client: httpx.Client) -> None:
    events = events_of(client.post("responses", json=body()))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.completed") == 1

    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    whole = events[-1]["response"]
    assert whole["output"] == done

    def told(kind: str) -> str:
        return "".join(event["delta"] for event in events if event["type"] == kind)

    thought, message, call = done
    assert told("response.reasoning_text.delta") == THOUGHT
    assert told("response.output_text.delta") == TEXT == message["content"][0]["text"]
    assert told("response.function_call_arguments.delta") == call["arguments"]
    assert json.loads(call["arguments"]) == json.loads(ARGUMENTS)
    assert thought["summary"] == []
    assert thought["encrypted_content"]

    usage = whole["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0
    assert usage["input_tokens_details"]["cached_tokens"] >= 0

    ran = {"type": "function_call_output", "call_id": call["call_id"], "output": "README.md\n"}
    again = events_of(client.post("responses", json=body(*map(sent_back, done), ran)))
    assert again[-1]["type"] == "response.completed"
    assert again[-1]["response"]["usage"]["input_tokens"] > usage["input_tokens"]


def test_models_without_thoughts_are_asked_without_them(client: httpx.Client) -> None:
    events = events_of(client.post("responses", json=body(reasoning=None, include=[], text=None)))
    (thought, *_others) = events[-1]["response"]["output"]
    assert "encrypted_content" not in thought or thought["encrypted_content"] is None


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'}


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "local_shell"},
        {"type": "web_search", "external_web_access": False},
        {"type": "image_generation", "output_format": "png"},
        {"type": "custom", "name": "apply_patch", "description": "Edits", "format": GRAMMAR},
        {"type": "tool_search", "execution": "client", "description": "Finds", "parameters": {}},
        {"type": "namespace", "name": "mcp__x", "description": "x", "tools": [SHELL]},
    ],
)
def test_tools_of_openais_own_are_refused_by_name(
    client: httpx.Client, tool: dict[str, Any]
) -> None:
    reply = client.post("responses", json=body(tools=[SHELL, tool]))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "tools[1].type")
    assert repr(tool["type"]) in error["message"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "local_shell_call", "call_id": "1", "status": "completed", "action": {}},
        {"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": "x"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search"}},
        {"type": "compaction", "encrypted_content": "x"},
    ],
)
def test_items_of_such_tools_are_refused_by_name(
    client: httpx.Client, item: dict[str, Any]
) -> None:
    error = client.post("responses", json=body(item)).json()["error"]
    assert error["param"] == "input[3].type"
    assert repr(item["type"]) in error["message"]
