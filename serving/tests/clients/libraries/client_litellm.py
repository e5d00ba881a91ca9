"""litellm, with the provider of servers that speak as vLLM does and with that of OpenAI."""

from __future__ import annotations

import json

import litellm
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

litellm.suppress_debug_info = True
PROVIDERS = ("openai", "hosted_vllm")
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"bed": {"type": "integer"}},
            "required": ["bed"],
        },
    },
}


class Place(BaseModel):
    ward: str
    bed: int


def ask(text, provider="hosted_vllm", **more):
    messages = more.pop("messages", [{"role": "user", "content": text}])
    given = {"api_base": site.base_url, "api_key": site.key, "messages": messages, **more}
    return litellm.completion(model=f"{provider}/{site.model}", **given)


@feature
def chat():
    for provider in PROVIDERS:
        assert ask(HELLO, provider).choices[0].message.content == GREETING


@feature
def stream():
    for provider in PROVIDERS:
        parts = [
            chunk.choices[0].delta.content or "" for chunk in ask(HELLO, provider, stream=True)
        ]
        assert "".join(parts) == GREETING


@feature
def usage():
    chunks = list(ask(HELLO, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0


@feature
def tools():
    for provider in PROVIDERS:
        message = ask(LOOK_UP, provider, tools=[TOOL]).choices[0].message
        (call,) = message.tool_calls
        assert json.loads(call.function.arguments) == {"bed": BED}
        turns = [
            {"role": "user", "content": LOOK_UP},
            message.model_dump(),
            {"role": "tool", "tool_call_id": call.id, "content": FOUND},
        ]
        reply = ask("", provider, messages=turns, tools=[TOOL])
        assert reply.choices[0].message.content == ANSWERED


@feature
def forced():
    (call,) = ask(HELLO, tools=[TOOL], tool_choice="required").choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"bed": BED}


@feature
def structured():
    for provider in PROVIDERS:
        text = ask(STRUCTURED, provider, response_format=Place).choices[0].message.content
        assert Place.model_validate_json(text) == Place(ward=WARD, bed=BED)


@feature
def reasoning():
    for provider in PROVIDERS:
        message = ask(THINK, provider).choices[0].message
        assert message.reasoning_content.strip() == THOUGHT
        assert message.content.strip() == CONCLUSION


@feature
def responses():
    reply = litellm.responses(
        model=f"openai/{site.model}", input=HELLO, api_base=site.base_url, api_key=site.key
    )
    assert reply.output[0].content[0].text == GREETING


@feature
def embeddings():
    reply = litellm.embedding(
        model=f"hosted_vllm/{site.encoder}",
        input=["a"],
        api_base=site.base_url,
        api_key=site.key,
    )
    assert len(reply.data[0]["embedding"]) == 8


@feature
def wrong_key():
    for provider in PROVIDERS:
        with raises(litellm.AuthenticationError):
            ask(HELLO, provider, api_key="wrong")


@feature
def too_long():
    for provider in PROVIDERS:
        with raises(litellm.ContextWindowExceededError):
            ask(TOO_LONG, provider)


@feature
def rate_limit():
    reply = ask(HELLO, "openai", api_key=site.used_up(), max_retries=2)
    assert reply.choices[0].message.content == GREETING


@feature
def request_id():
    reply = ask(HELLO, "openai", extra_headers={"x-client-request-id": "ward-3.7"})
    assert reply._response_headers["x-client-request-id"] == "ward-3.7"


main("litellm")
