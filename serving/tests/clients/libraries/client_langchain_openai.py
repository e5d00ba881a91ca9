"""langchain-openai."""

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
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

common = {"base_url": site.base_url, "api_key": site.key}
llm = ChatOpenAI(model=site.model, **common)


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
    parts = [chunk.content for chunk in llm.stream(HELLO)]
    assert "".join(parts) == GREETING


@feature
def usage():
    whole = None
    for chunk in ChatOpenAI(model=site.model, stream_usage=True, **common).stream(HELLO):
        whole = chunk if whole is None else whole + chunk
    assert whole.usage_metadata["output_tokens"] > 0


@feature
def tools():
    bound = llm.bind_tools([find])
    turns = [HumanMessage(LOOK_UP)]
    turns.append(bound.invoke(turns))
    (call,) = turns[-1].tool_calls
    turns.append(find.invoke(call))
    assert bound.invoke(turns).content == ANSWERED


@feature
def forced():
    for choice in ("any", "find"):
        (call,) = llm.bind_tools([find], tool_choice=choice).invoke(HELLO).tool_calls
        assert call["args"] == {"bed": BED}


@feature
def structured():
    for method in ("json_schema", "function_calling"):
        asked = llm.with_structured_output(Place, method=method)
        assert asked.invoke(STRUCTURED) == Place(ward=WARD, bed=BED), method


@feature
def responses():
    through = ChatOpenAI(model=site.model, use_responses_api=True, store=False, **common)
    assert through.invoke(HELLO).text == GREETING
    assert "".join(chunk.text for chunk in through.stream(HELLO)) == GREETING
    bound = through.bind_tools([find])
    turns = [HumanMessage(LOOK_UP)]
    turns.append(bound.invoke(turns))
    turns.append(find.invoke(turns[-1].tool_calls[0]))
    assert bound.invoke(turns).text == ANSWERED


@feature
def embeddings():
    # texts instead of the tokens of another model, whose table would be downloaded
    vectors = OpenAIEmbeddings(model=site.encoder, check_embedding_ctx_length=False, **common)
    assert len(vectors.embed_query("a")) == 8


@feature
def wrong_key():
    with raises(openai.AuthenticationError):
        ChatOpenAI(model=site.model, base_url=site.base_url, api_key="wrong").invoke(HELLO)


@feature
def too_long():
    with raises(ContextOverflowError):
        llm.invoke(TOO_LONG)


@feature
def rate_limit():
    limited = ChatOpenAI(model=site.model, base_url=site.base_url, api_key=site.used_up())
    assert limited.invoke(HELLO).content == GREETING


@feature
def request_id():
    named = ChatOpenAI(
        model=site.model,
        include_response_headers=True,
        default_headers={"x-client-request-id": "ward-3.7"},
        **common,
    )
    assert named.invoke(HELLO).response_metadata["headers"]["x-client-request-id"] == "ward-3.7"


main("langchain-openai", "langchain-core", "openai")
