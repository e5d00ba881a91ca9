"""haystack-ai."""

from __future__ import annotations

import openai
from conversation import (
    ANSWERED,
    BED,
    FOUND,
    GREETING,
    HELLO,
    LOOK_UP,
    STRUCTURED,
    TOO_LONG,
    WARD,
)
from features import feature, main, raises, site
from haystack.components.agents import Agent
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import (
    OpenAIChatGenerator,
    OpenAIResponsesChatGenerator,
)
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from pydantic import BaseModel


class Place(BaseModel):
    ward: str
    bed: int


def find(bed: int) -> str:
    assert bed == BED
    return FOUND


TOOL = Tool(
    name="find",
    description="Where the patient of a bed is.",
    parameters={
        "type": "object",
        "properties": {"bed": {"type": "integer"}},
        "required": ["bed"],
    },
    function=find,
)


def generator(kind=OpenAIChatGenerator, key=site.key, **more):
    return kind(
        model=site.model, api_base_url=site.base_url, api_key=Secret.from_token(key), **more
    )


def ask(text, **more):
    return generator(**more).run([ChatMessage.from_user(text)])["replies"][0]


@feature
def chat():
    assert ask(HELLO).text == GREETING


@feature
def stream():
    parts = []
    ask(HELLO, streaming_callback=lambda chunk: parts.append(chunk.content))
    assert "".join(parts) == GREETING


@feature
def usage():
    options = {"stream_options": {"include_usage": True}}
    reply = ask(HELLO, streaming_callback=lambda _chunk: None, generation_kwargs=options)
    assert reply.meta["usage"]["completion_tokens"] > 0


@feature
def tools():
    agent = Agent(chat_generator=generator(), tools=[TOOL])
    result = agent.run([ChatMessage.from_user(LOOK_UP)])
    assert result["messages"][-1].text == ANSWERED


@feature
def forced():
    reply = ask(HELLO, tools=[TOOL], generation_kwargs={"tool_choice": "required"})
    assert reply.tool_call.arguments == {"bed": BED}


@feature
def structured():
    reply = ask(STRUCTURED, generation_kwargs={"response_format": Place})
    assert Place.model_validate_json(reply.text) == Place(ward=WARD, bed=BED)


@feature
def responses():
    assert ask(HELLO, kind=OpenAIResponsesChatGenerator).text == GREETING


@feature
def embeddings():
    embedder = OpenAITextEmbedder(
        model=site.encoder, api_base_url=site.base_url, api_key=Secret.from_token(site.key)
    )
    assert len(embedder.run("a")["embedding"]) == 8


@feature
def wrong_key():
    with raises(openai.AuthenticationError):
        ask(HELLO, key="wrong")


@feature
def too_long():
    with raises(openai.BadRequestError) as raised:
        ask(TOO_LONG)
    assert raised.error.code == "context_length_exceeded"


@feature
def rate_limit():
    assert ask(HELLO, key=site.used_up()).text == GREETING


main("haystack-ai", "openai")
