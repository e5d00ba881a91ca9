"""Parameters of vLLM and SGLang that an upstream gets, beside those that every engine here has.

An allow-list: what is not in it, and no parameter of OpenAI's, is refused by name. Left out on
purpose is what would reach past one request of one client: its rank (`priority`), its name and its
salt in caches (`request_id`, `rid`, `cache_salt`, `extra_key`, which are ours to set), other
servers and their memory (`kv_transfer_params`, `bootstrap_host`, `data_parallel_rank`), programs
and templates of its own (`logits_processors`, `custom_logit_processor`, `chat_template`,
`vllm_xargs`, `mm_processor_kwargs`), adapters (`lora_path`), and answers without a bound
(`return_hidden_states`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from deepseek_serving.http.schema.body import INTEGER, INTEGERS, UNSUPPORTED, Body, refuse
from deepseek_serving.http.schema.bounds import MOST_BIASES, TokenId
from deepseek_serving.http.schema.formats import ResponseFormat, SchemaText

MOST_DOCUMENTS = 128
MOST_WORDS = 128
MOST_ALTERNATIVES = 1024
# of a pattern, and of a grammar
LONG, LONGEST = 5000, 2**16
MOST_VARIABLES = 64
# what a template is called with besides its variables, or what would take its place
NO_VARIABLES = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "padding",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)

Pattern = Annotated[str, Field(max_length=LONG)]
Grammar = Annotated[str, Field(max_length=LONGEST)]
Alternatives = Annotated[
    list[Annotated[str, Field(max_length=LONG)]],
    Field(min_length=1, max_length=MOST_ALTERNATIVES, fail_fast=True),
]


def _variables(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        if name in NO_VARIABLES:
            refuse("'{path}' is no variable of a chat template.", name, UNSUPPORTED)
    return value


Variables = Annotated[dict[str, Any], Field(max_length=MOST_VARIABLES), AfterValidator(_variables)]


class StructuredOutputs(Body):
    """vLLM's way to say what an answer must look like."""

    # `json` is a method of pydantic's models
    json_: SchemaText | None = Field(default=None, alias="json")
    regex: Pattern | None = None
    choice: Alternatives | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    # as an object, or written out
    structural_tag: dict[str, Any] | Grammar | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: Annotated[str, Field(max_length=256)] | None = None


class Extras(Body):
    """What chat and completion requests may have of it."""

    length_penalty: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=2**31), INTEGER] | None = None
    allowed_token_ids: (
        Annotated[
            list[TokenId], Field(min_length=1, max_length=MOST_BIASES, fail_fast=True), INTEGERS
        ]
        | None
    ) = None
    bad_words: (
        Annotated[
            list[Annotated[str, Field(max_length=256)]],
            Field(max_length=MOST_WORDS, fail_fast=True),
        ]
        | None
    ) = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    add_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaText | None = None
    guided_regex: Pattern | None = None
    guided_choice: Alternatives | None = None
    guided_grammar: Grammar | None = None
    guided_whitespace_pattern: Annotated[str, Field(max_length=256)] | None = None
    regex: Pattern | None = None
    ebnf: Grammar | None = None
    # the same in OpenAI's words: of completions too, and together with tools
    response_format: ResponseFormat | None = None


class ChatExtras(Extras):
    """What chat requests may have of it."""

    chat_template_kwargs: Variables | None = None
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=0, lt=2**31), INTEGER] | None = None
    enable_thinking: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    documents: (
        Annotated[list[dict[str, str]], Field(max_length=MOST_DOCUMENTS, fail_fast=True)] | None
    ) = None


class EmbeddingExtras(Body):
    """What requests for embeddings may have of it."""

    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=2**31), INTEGER] | None = None
    add_special_tokens: bool | None = None
    normalize: bool | None = None


class ScoreExtras(Body):
    """What requests for scores may have of it: vLLM's name for `use_activation` before."""

    activation: bool | None = None


class _ImageUrl(Body):
    """An image, in its URL."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _Url(Body):
    """A sound or a film, in its URL."""

    url: str


class _Audio(Body):
    """A sound, in base64."""

    data: str
    format: Annotated[str, Field(max_length=16)]


class ImagePart(Body):
    """A part of a message that is an image."""

    type: Literal["image_url"]
    image_url: _ImageUrl


class AudioPart(Body):
    """A part of a message that is a sound."""

    type: Literal["input_audio"]
    input_audio: _Audio


class AudioUrlPart(Body):
    """A part of a message that is a sound, as vLLM has it."""

    type: Literal["audio_url"]
    audio_url: _Url


class VideoPart(Body):
    """A part of a message that is a film."""

    type: Literal["video_url"]
    video_url: _Url
