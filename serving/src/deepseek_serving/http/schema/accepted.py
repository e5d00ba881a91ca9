"""Parameters of OpenAI's and vLLM's APIs that change nothing here, or may ask for nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from deepseek_serving.http.schema.body import Body, only_at
from deepseek_serving.http.schema.bounds import Name

# of metadata, and of hints to caches
Hints = Annotated[dict[str, Any], Field(max_length=64)]


class Accepted(Body):
    """What all requests for generated text have of them."""

    # no effect on the answer
    user: str | None = None
    request_id: Name | None = None
    spaces_between_special_tokens: bool | None = None

    # would change the answer, or who gets one first, if they were heeded
    best_of: Annotated[Any, only_at(1)] = None
    use_beam_search: Annotated[Any, only_at(False)] = None
    length_penalty: Annotated[Any, only_at(1)] = None
    priority: Annotated[Any, only_at(0)] = None
    skip_special_tokens: Annotated[Any, only_at(True)] = None
    truncate_prompt_tokens: Annotated[Any, only_at()] = None
    allowed_token_ids: Annotated[Any, only_at()] = None
    bad_words: Annotated[Any, only_at([])] = None
    logits_processors: Annotated[Any, only_at([])] = None
    return_token_ids: Annotated[Any, only_at(False)] = None
    return_tokens_as_token_ids: Annotated[Any, only_at(False)] = None
    kv_transfer_params: Annotated[Any, only_at({})] = None
    vllm_xargs: Annotated[Any, only_at({})] = None
    # the service keeps the caches of keys apart itself
    cache_salt: Annotated[Any, only_at()] = None


class ChatAccepted(Accepted):
    """What chat requests have of them."""

    # no effect on the answer
    metadata: Hints | None = None
    store: bool | None = None
    prediction: Hints | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Hints | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # would change the answer if they were heeded
    audio: Annotated[Any, only_at()] = None
    function_call: Annotated[Any, only_at("none", "auto")] = None
    functions: Annotated[Any, only_at([])] = None
    modalities: Annotated[Any, only_at(["text"])] = None
    moderation: Annotated[Any, only_at()] = None
    web_search_options: Annotated[Any, only_at()] = None
    add_special_tokens: Annotated[Any, only_at(False)] = None
    echo: Annotated[Any, only_at(False)] = None
    include_reasoning: Annotated[Any, only_at(True)] = None
    mm_processor_kwargs: Annotated[Any, only_at({})] = None


class CompletionAccepted(Accepted):
    """What completion requests have of them."""

    # would change the answer if they were heeded
    suffix: Annotated[Any, only_at("")] = None
    add_special_tokens: Annotated[Any, only_at(True)] = None
    prompt_embeds: Annotated[Any, only_at()] = None


class EmbeddingAccepted(Body):
    """What embedding requests have of them."""

    # no effect on the vectors
    user: str | None = None
    request_id: Name | None = None

    # would change them if they were heeded
    add_special_tokens: Annotated[Any, only_at(True)] = None
    priority: Annotated[Any, only_at(0)] = None
    truncate_prompt_tokens: Annotated[Any, only_at()] = None
