"""openai, with its versions 2 and 3."""

from __future__ import annotations

import json

import openai
from conversation import (
    ANSWERED,
    BED,
    CONCLUSION,
    FOUND,
    GREETING,
    HELLO,
    LOOK_UP,
    STRUCTURED,
    THINK,
    THOUGHT,
    TOO_LONG,
    WARD,
)
from features import feature, main, raises, site
from pydantic import BaseModel

client = openai.OpenAI(base_url=site.base_url, api_key=site.key)
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Where the patient of a bed is.",
        "parameters": {
            "type": "object",
            "properties": {"bed": {"type": "integer"}},
            "required": ["bed"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Place(BaseModel):
    ward: str
    bed: int


def user(text):
    return [{"role": "user", "content": text}]


def ask(text, **more):
    return client.chat.completions.create(model=site.model, messages=user(text), **more)


@feature
def chat():
    assert ask(HELLO).choices[0].message.content == GREETING


@feature
def stream():
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(HELLO, stream=True)]
    assert "".join(parts) == GREETING
    assert len(parts) > 2


@feature
def usage():
    *_most, last = ask(HELLO, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens > 0
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


@feature
def tools():
    message = ask(LOOK_UP, tools=[TOOL]).choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"bed": BED}
    # the message goes back as the library has parsed it
    turns = [*user(LOOK_UP), message, {"role": "tool", "tool_call_id": call.id, "content": FOUND}]
    reply = client.chat.completions.create(model=site.model, messages=turns, tools=[TOOL])
    assert reply.choices[0].message.content == ANSWERED


@feature
def forced():
    for choice in ("required", {"type": "function", "function": {"name": "find"}}):
        (call,) = ask(HELLO, tools=[TOOL], tool_choice=choice).choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"bed": BED}


@feature
def structured():
    reply = client.chat.completions.parse(
        model=site.model, messages=user(STRUCTURED), response_format=Place
    )
    assert reply.choices[0].message.parsed == Place(ward=WARD, bed=BED)


@feature
def reasoning():
    message = ask(THINK).choices[0].message
    assert message.reasoning_content.strip() == THOUGHT
    assert message.content.strip() == CONCLUSION


@feature
def responses():
    assert client.responses.create(model=site.model, input=HELLO).output_text == GREETING
    with client.responses.stream(model=site.model, input=HELLO) as events:
        kinds = [event.type for event in events]
        assert events.get_final_response().output_text == GREETING
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    tool = {"type": "function", **TOOL["function"]}
    first = client.responses.create(model=site.model, input=LOOK_UP, tools=[tool], store=False)
    (call,) = [item for item in first.output if item.type == "function_call"]
    done = {"type": "function_call_output", "call_id": call.call_id, "output": FOUND}
    turns = [*user(LOOK_UP), *first.output, done]
    second = client.responses.create(model=site.model, input=turns, tools=[tool], store=False)
    assert second.output_text == ANSWERED
    parsed = client.responses.parse(model=site.model, input=STRUCTURED, text_format=Place)
    assert parsed.output_parsed == Place(ward=WARD, bed=BED)


@feature
def embeddings():
    reply = client.embeddings.create(model=site.encoder, input=["a", "b"])
    assert [len(entry.embedding) for entry in reply.data] == [8, 8]


@feature
def models():
    assert {model.id for model in client.models.list()} == {site.model, site.encoder}


@feature
def wrong_key():
    with raises(openai.AuthenticationError) as raised:
        client.with_options(api_key="wrong").models.list()
    assert raised.error.code == "invalid_api_key"


@feature
def too_long():
    with raises(openai.BadRequestError) as raised:
        ask(TOO_LONG)
    assert raised.error.code == "context_length_exceeded"


@feature
def rate_limit():
    limited = client.with_options(api_key=site.used_up())
    reply = limited.chat.completions.create(model=site.model, messages=user(HELLO))
    assert reply.choices[0].message.content == GREETING


@feature
def request_id():
    reply = client.chat.completions.with_raw_response.create(
        model=site.model, messages=user(HELLO), extra_headers={"x-client-request-id": "ward-3.7"}
    )
    assert reply.headers["x-client-request-id"] == "ward-3.7"
    assert reply.parse()._request_id == reply.headers["x-request-id"]


main("openai")
