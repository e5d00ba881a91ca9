"""What a request asks for, in plain values.

They come from a process that judges large bodies as cheaply as from this one, which models of a
validating library would not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from deepseek_serving.text.prompt_options import USUAL, PromptOptions

# a prompt or a text: as it was written, or the numbers of its tokens
Text: TypeAlias = "str | Sequence[int]"
# in which events of a stream it is said what was used
Usage = Literal["none", "last", "every"]


@dataclass(frozen=True)
class Options:
    """What a request may choose; None takes the checkpoint's or the service's default."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    # the answer has the stop string, or the token of `stop_tokens`, at its end
    include_stop: bool = False
    # they end an answer as the checkpoint's own end tokens do, which `ignore_eos` leaves out;
    # none of them comes before there are `min_tokens`
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    # 0 keeps all tokens
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    # give the prompt's tokens log probabilities, with so many best ones of each
    score: int | None = None
    n: int = 1


@dataclass(frozen=True)
class Tools:
    """Functions that the model may call; `force`: one of these it must call.

    `parallel`: it may call several in one reply.
    """

    functions: Sequence[Mapping[str, Any]]
    force: Sequence[str] = ()
    parallel: bool = True

    def rendered(self) -> list[Mapping[str, Any]]:
        return [{"type": "function", "function": function} for function in self.functions]


@dataclass(frozen=True)
class Format:
    """What an answer must look like, as the request's `parameter` asks for it.

    `content` is a schema (`json`), a regular expression (`regex`), a list of texts (`choice`), a
    grammar in Lark or GBNF (`grammar`), or of free text what tags in it hold to a schema (`tags`):
    `{"tags": [(begin, schema, end), …], "triggers": […]}`.
    """

    kind: Literal["json", "regex", "choice", "grammar", "tags"]
    content: Any
    parameter: str = "response_format"


@dataclass(frozen=True)
class Chat:
    """A conversation to be answered; `messages` as templates get them."""

    model: str
    messages: list[dict[str, Any]]
    chosen: Options
    called_tools: Tools | None = None
    prompt: PromptOptions = USUAL
    # None if the answer is free
    answer_format: Format | None = None
    logprobs: bool = False
    prompt_logprobs: int | None = None
    stream: bool = False
    usage: Usage = "none"

    def options(self) -> Options:
        return self.chosen


@dataclass(frozen=True)
class Completion:
    """Texts to go on with."""

    model: str
    prompts: list[Text]
    chosen: Options
    # of what follows each prompt; None if it is free
    answer_format: Format | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    usage: Usage = "none"

    def options(self) -> Options:
        return self.chosen


@dataclass(frozen=True)
class Scoring:
    """Questions, and the document that each is to be judged with.

    `most` and `most_document`: tokens of a pair and of a document, which is cut to them; `raw`:
    scores as the model's head says them. The rest is for documents that are ranked: how many of the
    best are wanted, and whether the answer shows their texts.
    """

    model: str
    questions: list[str]
    documents: list[str]
    most: int | None = None
    most_document: int | None = None
    raw: bool = False
    top: int | None = None
    shows: bool = True


@dataclass(frozen=True)
class Embedding:
    """Texts to make vectors of."""

    model: str
    texts: list[Text]
    encoding_format: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class Tokenize:
    """A text or a conversation whose tokens are asked for; an empty model is the service's.

    `special`: with the tokens that the tokenizer puts around a text; `strings`: as text, too.
    """

    model: str
    text: str | Chat
    special: bool = True
    strings: bool = False


@dataclass(frozen=True)
class Detokenize:
    """Numbers of tokens whose text is asked for."""

    model: str
    tokens: Sequence[int]
