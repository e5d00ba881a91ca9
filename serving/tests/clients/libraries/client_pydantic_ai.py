"""pydantic-ai."""

from __future__ import annotations

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
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Place(BaseModel):
    """Where a patient is."""

    ward: str
    bed: int


def provider(key=site.key):
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=site.base_url, api_key=key))


def agent(key=site.key, **more):
    return Agent(OpenAIChatModel(site.model, provider=provider(key)), **more)


def find(bed: int) -> str:
    """Where the patient of a bed is."""
    assert bed == BED
    return FOUND


@feature
async def chat():
    assert (await agent().run(HELLO)).output == GREETING


@feature
async def stream():
    async with agent().run_stream(HELLO) as result:
        parts = [part async for part in result.stream_text(delta=True)]
    assert "".join(parts) == GREETING


@feature
async def usage():
    async with agent().run_stream(HELLO) as result:
        assert await result.get_output() == GREETING
        used = result.usage() if callable(result.usage) else result.usage
    assert used.output_tokens > 0


@feature
async def tools():
    assert (await agent(tools=[find]).run(LOOK_UP)).output == ANSWERED


@feature
async def forced():
    result = await agent(output_type=ToolOutput(Place)).run(LOOK_UP)
    assert result.output == Place(ward=WARD, bed=BED)


@feature
async def structured():
    result = await agent(output_type=NativeOutput(Place)).run(STRUCTURED)
    assert result.output == Place(ward=WARD, bed=BED)


@feature
async def reasoning():
    result = await agent().run(THINK)
    (thought,) = [
        part
        for message in result.all_messages()
        for part in message.parts
        if isinstance(part, ThinkingPart)
    ]
    assert thought.content.strip() == THOUGHT
    assert result.output.strip() == CONCLUSION
    # and the next turn sends it back
    again = await agent().run(HELLO, message_history=result.all_messages())
    assert again.output == GREETING


@feature
async def responses():
    through = Agent(OpenAIResponsesModel(site.model, provider=provider()), tools=[find])
    assert (await Agent(through.model).run(HELLO)).output == GREETING
    assert (await through.run(LOOK_UP)).output == ANSWERED


@feature
async def embeddings():
    embedder = Embedder(OpenAIEmbeddingModel(site.encoder, provider=provider()))
    assert len((await embedder.embed_query("a")).embeddings[0]) == 8


@feature
async def wrong_key():
    with raises(ModelHTTPError) as raised:
        await agent("wrong").run(HELLO)
    assert raised.error.status_code == 401


@feature
async def too_long():
    with raises(ModelHTTPError) as raised:
        await agent().run(TOO_LONG)
    assert raised.error.body["code"] == "context_length_exceeded"


@feature
async def rate_limit():
    assert (await agent(site.used_up()).run(HELLO)).output == GREETING


main("pydantic-ai-slim", "openai")
