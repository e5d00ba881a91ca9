"""Responses of an engine of our own, through sockets and OpenAI's client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response
from parrot import HERMES, serve_parrot
from pydantic import BaseModel
from support import MODEL, Authority, Running, trained

from deepseek_serving.http.validation import ReadChat, ReadResponse

RESPONSES = "/v1/responses"
QUESTION, ANSWER = "What is a release?", dict(trained())["What is a release?"]
TOOL: Any = {
    "type": "function",
    "name": "find",
    "description": None,
    "parameters": {"type": "object", "properties": {"bed": {"type": "integer"}}},
    "strict": False,
}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "find", "parameters": TOOL["parameters"], "strict": False},
}
THINKING_HERMES = HERMES + "<think>\n"
CALL = '<tool_call>\n{"name": "find", "arguments": {"bed": 3}}\n</tool_call>'
SAID = f"Bed 3? Yes.</think>\n\nI look.\n{CALL}"

Serve = Callable[..., AbstractContextManager[openai.OpenAI]]


@pytest.fixture
def sdk(service: Running, authority: Authority) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(verify=authority.client("gateway-1"))
    url = f"{service.url}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", http_client=http, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def model(graph: Path, tmp_path: Path) -> Serve:
    """Serve a model with that template, which says that."""
    return partial(serve_parrot, graph, tmp_path / "graph")


def ask(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": QUESTION, **more}


def error(reply: httpx.Response) -> dict[str, Any]:
    return dict(reply.json()["error"])


def test_a_response_in_one_piece(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(**ask(), metadata={"ward": "3"})
    assert (response.output_text, response.status) == (ANSWER, "completed")
    assert (response.model, response.metadata) == (MODEL, {"ward": "3"})
    (message,) = response.output
    assert (message.type, message.status) == ("message", "completed")
    assert response.usage is not None
    assert response.usage.output_tokens > 5
    spent = response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.total_tokens == spent


def test_its_prompt_is_that_of_the_chat_request(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Hi."}, {"role": "user", "content": QUESTION}],
    )
    response = sdk.responses.create(**ask(instructions="Hi."))
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.output_text == chat.choices[0].message.content


def test_a_streamed_response_is_the_same(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(**ask()) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER == final.output_text
    assert len(deltas) > 5
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.usage is not None
    assert final.usage.output_tokens > 5


def test_events_on_the_wire_have_their_names(client: httpx.Client) -> None:
    with client.stream("POST", RESPONSES, json=ask(stream=True)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_an_answer_that_was_cut_is_incomplete(sdk: openai.OpenAI) -> None:
    cut = sdk.responses.create(**ask(max_output_tokens=3))
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert ANSWER.startswith(cut.output_text)
    with sdk.responses.create(**ask(max_output_tokens=3, stream=True)) as stream:
        *_begun, last = stream
    assert last.type == "response.incomplete"
    assert last.response.output_text == cut.output_text


class Place(BaseModel):
    """What an answer must look like."""

    bed: Literal[3, 5]
    free: bool


def test_a_format_is_parsed(sdk: openai.OpenAI) -> None:
    parsed = sdk.responses.parse(**ask(), text_format=Place, temperature=0)
    assert isinstance(parsed.output_parsed, Place)
    with sdk.responses.stream(**ask(), text_format=Place, temperature=0) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_probabilities_come_with_the_text(client: httpx.Client) -> None:
    body = ask(include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=4)
    reply = client.post(RESPONSES, json=body).json()
    (part,) = reply["output"][0]["content"]
    assert "".join(token["token"] for token in part["logprobs"]) == part["text"]
    assert {len(token["top_logprobs"]) for token in part["logprobs"]} == {2}


def test_what_is_refused_is_named_in_the_terms_of_responses(client: httpx.Client) -> None:
    kept = client.post(RESPONSES, json=ask(previous_response_id="resp_1"))
    assert (kept.status_code, error(kept)["param"]) == (400, "previous_response_id")
    long = client.post(RESPONSES, json=ask(input="word " * 2000))
    assert (long.status_code, error(long)["code"]) == (400, "context_length_exceeded")
    assert error(long)["param"] == "input"
    wanted = {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}
    schema = client.post(RESPONSES, json=ask(text={"format": wanted}))
    assert (schema.status_code, error(schema)["param"]) == (400, "text.format")
    other = client.post(RESPONSES, json=ask(model="another"))
    assert (other.status_code, error(other)["code"]) == (404, "model_not_found")


def test_a_large_body_is_judged_elsewhere_and_answered(client: httpx.Client) -> None:
    described = {**TOOL, "description": "x" * 2**17}
    reply = client.post(RESPONSES, json=ask(tools=[described], tool_choice="none"))
    assert reply.status_code == 200
    assert reply.json()["tools"] == [described]
    assert Response.model_validate(reply.json()).output_text == ANSWER


def test_requests_are_counted_by_their_path(client: httpx.Client) -> None:
    client.post(RESPONSES, json=ask())
    assert 'path="/v1/responses",status="200"' in client.get("/metrics").text


def test_thoughts_and_calls_are_items(model: Serve) -> None:
    with model(THINKING_HERMES, SAID, ("<think>", "</think>")) as sdk:
        response = sdk.responses.create(**ask(tools=[TOOL]))
        with sdk.responses.stream(**ask(tools=[TOOL])) as stream:
            events = [event.type for event in stream]
            streamed = stream.get_final_response()
    thought, message, call = response.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "Bed 3? Yes."
    assert message.type == "message"
    assert response.output_text == "I look.\n" == streamed.output_text
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "find",
        {"bed": 3},
    )
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 3
    assert "response.reasoning_text.delta" in events
    assert "response.function_call_arguments.done" in events
    assert [item.type for item in streamed.output] == [item.type for item in response.output]


def test_a_call_that_was_cut_is_incomplete(model: Serve) -> None:
    with model(HERMES, CALL) as sdk:
        whole = sdk.responses.create(**ask(tools=[TOOL]))
        assert whole.usage is not None
        most = whole.usage.output_tokens - 6
        cut = sdk.responses.create(**ask(tools=[TOOL], max_output_tokens=most))
    (call,) = cut.output
    assert (call.type, call.status, cut.status) == ("function_call", "incomplete", "incomplete")


def test_what_comes_out_goes_in_again(model: Serve) -> None:
    """With the prompt that the same conversation has by chat completions."""
    with model(THINKING_HERMES, SAID, ("<think>", "</think>")) as sdk:
        answer = sdk.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], tools=[CHAT_TOOL]
        ).choices[0]
        assert answer.message.tool_calls is not None
        (made,) = answer.message.tool_calls
        messages: list[Any] = [
            {"role": "user", "content": QUESTION},
            answer.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": made.id, "content": "in bed 3"},
        ]
        chat = sdk.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL])
        response = sdk.responses.create(**ask(tools=[TOOL]))
        call = response.output[-1]
        assert call.type == "function_call"
        items: list[Any] = [
            {"role": "user", "content": QUESTION},
            *(item.to_dict(exclude_none=False) for item in response.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": "in bed 3"},
        ]
        again = sdk.responses.create(model=MODEL, input=items, tools=[TOOL])
        # as the client has them, too
        kept: Any = [items[0], *response.output, items[-1]]
        same = sdk.responses.create(model=MODEL, input=kept, tools=[TOOL])
    assert again.usage is not None
    assert same.usage is not None
    assert chat.usage is not None
    assert again.usage.input_tokens == chat.usage.prompt_tokens == same.usage.input_tokens
    for message in messages:
        for made_call in message.get("tool_calls", ()):
            made_call["id"] = call.call_id
        if "tool_call_id" in message:
            message["tool_call_id"] = call.call_id
    by_chat = ReadChat().asked({"model": MODEL, "messages": messages})
    body = json.dumps({"model": MODEL, "input": items}).encode()
    assert ReadResponse(ReadChat()).read(body).chat.messages == by_chat.messages
