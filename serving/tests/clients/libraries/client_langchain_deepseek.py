"""langchain-deepseek."""

from __future__ import annotations

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
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from pydantic import BaseModel


def model(**more):
    given = {"model": site.model, "api_base": site.base_url, "api_key": site.key, **more}
    return ChatDeepSeek(**given)


llm = model()


class Place(BaseModel):
    """Where a patient is."""

    ward: str
    bed: int


@tool
def find(bed: int) -> str:
    """Where the patient of a bed is."""
    assert bed == BED
    return FOUND


@feature
def chat():
    assert llm.invoke(HELLO).content == GREETING


@feature
def stream():
    assert "".join(chunk.content for chunk in llm.stream(HELLO)) == GREETING


@feature
def usage():
    whole = None
    for chunk in model(stream_usage=True).stream(HELLO):
        whole = chunk if whole is None else whole + chunk
    assert whole.usage_metadata["output_tokens"] > 0


@feature
def tools():
    bound = llm.bind_tools([find])
    turns = [HumanMessage(LOOK_UP)]
    turns.append(bound.invoke(turns))
    turns.append(find.invoke(turns[-1].tool_calls[0]))
    assert bound.invoke(turns).content == ANSWERED


@feature
def forced():
    (call,) = llm.bind_tools([find], tool_choice="find").invoke(HELLO).tool_calls
    assert call["args"] == {"bed": BED}


@feature
def structured():
    for method in ("json_mode", "function_calling"):
        asked = llm.with_structured_output(Place, method=method)
        assert asked.invoke(STRUCTURED) == Place(ward=WARD, bed=BED), method


@feature
def reasoning():
    reply = llm.invoke(THINK)
    assert reply.additional_kwargs["reasoning_content"].strip() == THOUGHT
    assert reply.content.strip() == CONCLUSION
    streamed = [chunk.additional_kwargs.get("reasoning_content", "") for chunk in llm.stream(THINK)]
    assert "".join(streamed).strip() == THOUGHT


@feature
def wrong_key():
    with raises(openai.AuthenticationError):
        model(api_key="wrong").invoke(HELLO)


@feature
def too_long():
    with raises(openai.BadRequestError) as raised:
        llm.invoke(TOO_LONG)
    assert raised.error.code == "context_length_exceeded"


@feature
def rate_limit():
    assert model(api_key=site.used_up()).invoke(HELLO).content == GREETING


@feature
def request_id():
    named = model(
        include_response_headers=True, default_headers={"x-client-request-id": "ward-3.7"}
    )
    assert named.invoke(HELLO).response_metadata["headers"]["x-client-request-id"] == "ward-3.7"


main("langchain-deepseek", "langchain-openai")
