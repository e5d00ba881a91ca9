"""llama-index, by its classes for servers that are like OpenAI's."""

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
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

USER = [ChatMessage(role="user", content=HELLO)]


class Place(BaseModel):
    """Where a patient is."""

    ward: str
    bed: int


def model(**more):
    given = {
        "model": site.model,
        "api_base": site.base_url,
        "api_key": site.key,
        "is_chat_model": True,
        "is_function_calling_model": True,
        "context_window": 8192,
        **more,
    }
    return OpenAILike(**given)


llm = model()


def find(bed: int) -> str:
    """Where the patient of a bed is."""
    assert bed == BED
    return FOUND


@feature
def chat():
    assert llm.chat(USER).message.content == GREETING


@feature
def stream():
    assert "".join(part.delta for part in llm.stream_chat(USER)) == GREETING


@feature
def usage():
    asked = model(additional_kwargs={"stream_options": {"include_usage": True}})
    *_most, last = asked.stream_chat(USER)
    assert last.raw.usage.completion_tokens > 0


@feature
async def tools():
    agent = FunctionAgent(llm=model(), tools=[FunctionTool.from_defaults(find)], streaming=False)
    assert str(await agent.run(LOOK_UP)) == ANSWERED


@feature
def forced():
    tool = FunctionTool.from_defaults(find)
    response = llm.chat_with_tools([tool], user_msg=HELLO, tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    assert call.tool_kwargs == {"bed": BED}


@feature
def structured():
    asked = model(should_use_structured_outputs=True).as_structured_llm(Place)
    reply = asked.chat([ChatMessage(role="user", content=STRUCTURED)])
    assert reply.raw == Place(ward=WARD, bed=BED)


@feature
def embeddings():
    embedding = OpenAILikeEmbedding(
        model_name=site.encoder, api_base=site.base_url, api_key=site.key
    )
    assert len(embedding.get_text_embedding("a")) == 8


@feature
def wrong_key():
    with raises(openai.AuthenticationError):
        model(api_key="wrong").chat(USER)


@feature
def too_long():
    with raises(openai.BadRequestError) as raised:
        llm.chat([ChatMessage(role="user", content=TOO_LONG)])
    assert raised.error.code == "context_length_exceeded"


@feature
def rate_limit():
    assert model(api_key=site.used_up()).chat(USER).message.content == GREETING


main("llama-index-llms-openai-like", "llama-index-embeddings-openai-like", "llama-index-core")
