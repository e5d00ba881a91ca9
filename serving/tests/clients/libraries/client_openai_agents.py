"""openai-agents."""

from __future__ import annotations

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
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
from pydantic import BaseModel

# they would go to OpenAI
set_tracing_disabled(True)


class Place(BaseModel):
    ward: str
    bed: int


@function_tool
def find(bed: int) -> str:
    """Where the patient of a bed is."""
    assert bed == BED
    return FOUND


def agent(kind=OpenAIChatCompletionsModel, key=site.key, **more):
    client = openai.AsyncOpenAI(base_url=site.base_url, api_key=key)
    model = kind(model=site.model, openai_client=client)
    return Agent(name="ward", instructions="Be short.", model=model, **more)


async def streamed(asked):
    result = Runner.run_streamed(asked, HELLO)
    parts = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return "".join(parts), result


@feature
async def chat():
    assert (await Runner.run(agent(), HELLO)).final_output == GREETING


@feature
async def stream():
    assert (await streamed(agent()))[0] == GREETING


@feature
async def usage():
    settings = ModelSettings(include_usage=True)
    _text, result = await streamed(agent(model_settings=settings))
    assert result.context_wrapper.usage.output_tokens > 0


@feature
async def tools():
    assert (await Runner.run(agent(tools=[find]), LOOK_UP)).final_output == ANSWERED


@feature
async def forced():
    settings = ModelSettings(tool_choice="required")
    result = await Runner.run(agent(tools=[find], model_settings=settings), HELLO)
    assert result.final_output == ANSWERED


@feature
async def structured():
    result = await Runner.run(agent(output_type=Place), STRUCTURED)
    assert result.final_output == Place(ward=WARD, bed=BED)


@feature
async def responses():
    kind = OpenAIResponsesModel
    assert (await Runner.run(agent(kind), HELLO)).final_output == GREETING
    assert (await streamed(agent(kind)))[0] == GREETING
    assert (await Runner.run(agent(kind, tools=[find]), LOOK_UP)).final_output == ANSWERED
    result = await Runner.run(agent(kind, output_type=Place), STRUCTURED)
    assert result.final_output == Place(ward=WARD, bed=BED)


@feature
async def wrong_key():
    with raises(openai.AuthenticationError):
        await Runner.run(agent(key="wrong"), HELLO)


@feature
async def too_long():
    with raises(openai.BadRequestError) as raised:
        await Runner.run(agent(), TOO_LONG)
    assert raised.error.code == "context_length_exceeded"


@feature
async def rate_limit():
    assert (await Runner.run(agent(key=site.used_up()), HELLO)).final_output == GREETING


main("openai-agents", "openai")
