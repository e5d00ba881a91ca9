"""autogen-ext, and the agents of autogen-agentchat."""

from __future__ import annotations

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import CreateResult, ModelInfo, UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
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


class Place(BaseModel):
    ward: str
    bed: int


async def find(bed: int) -> str:
    """Where the patient of a bed is."""
    assert bed == BED
    return FOUND


def client(key=site.key, family="unknown"):
    return OpenAIChatCompletionClient(
        model=site.model,
        base_url=site.base_url,
        api_key=key,
        model_info=ModelInfo(
            vision=False,
            function_calling=True,
            json_output=True,
            structured_output=True,
            family=family,
        ),
    )


def user(text):
    return [UserMessage(content=text, source="user")]


@feature
async def chat():
    assert (await client().create(user(HELLO))).content == GREETING


@feature
async def stream():
    *parts, result = [part async for part in client().create_stream(user(HELLO))]
    assert isinstance(result, CreateResult)
    assert "".join(parts) == result.content == GREETING


@feature
async def usage():
    *_parts, result = [
        part async for part in client().create_stream(user(HELLO), include_usage=True)
    ]
    assert result.usage.completion_tokens > 0


@feature
async def tools():
    agent = AssistantAgent("ward", client(), tools=[find], reflect_on_tool_use=True)
    assert (await agent.run(task=LOOK_UP)).messages[-1].content == ANSWERED


@feature
async def forced():
    tool = FunctionTool(find, description="Where the patient of a bed is.")
    result = await client().create(user(HELLO), tools=[tool], tool_choice="required")
    assert result.content[0].arguments == '{"bed": 3}'


@feature
async def structured():
    result = await client().create(user(STRUCTURED), json_output=Place)
    assert Place.model_validate_json(result.content) == Place(ward=WARD, bed=BED)


@feature
async def reasoning():
    result = await client(family="r1").create(user(THINK))
    assert result.thought.strip() == THOUGHT
    assert result.content.strip() == CONCLUSION


@feature
async def wrong_key():
    with raises(openai.AuthenticationError):
        await client("wrong").create(user(HELLO))


@feature
async def too_long():
    with raises(openai.BadRequestError) as raised:
        await client().create(user(TOO_LONG))
    assert raised.error.code == "context_length_exceeded"


@feature
async def rate_limit():
    assert (await client(site.used_up()).create(user(HELLO))).content == GREETING


main("autogen-ext", "autogen-agentchat", "openai")
