"""smolagents."""

from __future__ import annotations

from typing import ClassVar

import openai
from conversation import ANSWERED, BED, FOUND, GREETING, HELLO, LOOK_UP, TOO_LONG
from features import feature, main, raises, site
from smolagents import OpenAIModel, Tool, ToolCallingAgent
from smolagents.models import ChatMessage, MessageRole


class Find(Tool):
    name = "find"
    description = "Where the patient of a bed is."
    inputs: ClassVar = {"bed": {"type": "integer", "description": "its number"}}
    output_type = "string"

    def forward(self, bed: int) -> str:
        assert bed == BED
        return FOUND


def model(key=site.key):
    return OpenAIModel(model_id=site.model, api_base=site.base_url, api_key=key)


def user(text):
    return [ChatMessage(role=MessageRole.USER, content=text)]


@feature
def chat():
    assert model().generate(user(HELLO)).content == GREETING


@feature
def stream():
    parts = [delta.content or "" for delta in model().generate_stream(user(HELLO))]
    assert "".join(parts) == GREETING


@feature
def usage():
    used = [delta.token_usage for delta in model().generate_stream(user(HELLO))]
    assert [each for each in used if each][-1].output_tokens > 0


@feature
def tools():
    agent = ToolCallingAgent(tools=[Find()], model=model(), verbosity_level=0, max_steps=3)
    assert agent.run(LOOK_UP) == ANSWERED


@feature
def forced():
    reply = model().generate(user(HELLO), tools_to_call_from=[Find()])
    assert reply.tool_calls[0].function.name == "find"


@feature
def wrong_key():
    with raises(openai.AuthenticationError):
        model("wrong").generate(user(HELLO))


@feature
def too_long():
    with raises(openai.BadRequestError) as raised:
        model().generate(user(TOO_LONG))
    assert raised.error.code == "context_length_exceeded"


@feature
def rate_limit():
    assert model(site.used_up()).generate(user(HELLO)).content == GREETING


main("smolagents", "openai")
