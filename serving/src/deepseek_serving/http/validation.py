"""What a body asks for, or why it is refused: small bodies here, large ones in other processes.

Little may be imported: every process that judges loads this module. The same code judges both, so
there is one answer to every body.
"""

from __future__ import annotations

import json
import sys
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from pydantic import ValidationError

from deepseek_serving.generation.request import (
    Chat,
    Completion,
    Detokenize,
    Embedding,
    Scoring,
    Text,
    Tokenize,
    Usage,
)
from deepseek_serving.http.complaints import RefusedError, explained
from deepseek_serving.http.json_bounds import (
    MOST_CONTAINERS,
    MOST_QUOTES,
    MOST_VALUES,
    Shape,
    depth,
    shape,
)
from deepseek_serving.http.responses_input import chat_body, echoed, in_our_terms
from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.chat import ChatRequest
from deepseek_serving.http.schema.completions import CompletionRequest
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.schema.reranking import RerankRequest, ScoreRequest
from deepseek_serving.http.schema.responses import ResponsesRequest
from deepseek_serving.http.schema.tokens import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from deepseek_serving.http.upstream_parameters import (
    TOKENS_OF_MEDIA,
    own_part,
    passed_on,
    rendered,
)
from deepseek_serving.http.upstream_words import format_parameter, in_known_words
from deepseek_serving.text.known_tokens import KnownTokens

MOST_DEPTH = 128
# The values of a completion and of an embedding may be the numbers of tokens, which are handed over
# as arrays.
MOST_NUMBERS = 2**20
# of a body as text: 8 MiB of it with two bytes for each character, and four for half as many
MOST_MEMORY = 2**24 + 2**10
TEXTS_OF_ENCODERS = ("input", "query", "documents", "text_1", "text_2")
# About what tokenizers make of most texts; what a request really took is settled afterwards.
BYTES_PER_TOKEN = 4


def _too_complex(what: str) -> RefusedError:
    return RefusedError(f"The request body has more than {what}.", code="request_too_complex")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# NaN and Infinity are no JSON, though Python reads them, and whom we forward them to may not
_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def _narrow(text: str) -> str:
    """Raises RefusedError where it takes more memory than a body of the largest size should.

    Python keeps all characters as wide as the widest of them is.
    """
    if sys.getsizeof(text) > MOST_MEMORY:
        raise RefusedError(
            f"A request body with characters such as emoji may have {MOST_MEMORY // 4} characters.",
            code="request_too_complex",
        )
    return text


def _parsed(data: bytes, most_values: int) -> object:
    """What JSON says, within the bounds. Raises RefusedError."""
    found = shape(data, Shape(MOST_CONTAINERS, most_values))
    if found is None:
        raise _too_complex(f"{MOST_QUOTES // 2} strings")
    if found.containers > MOST_CONTAINERS:
        raise _too_complex(f"{MOST_CONTAINERS} arrays and objects")
    if found.values > most_values:
        raise _too_complex(f"{most_values} values")
    try:
        text = _narrow(data.removeprefix(BOM_UTF8).decode("utf-8"))
        value: object = _decode(text)
        if b"\\u" in data:
            # half a surrogate pair, which JSON may carry and UTF-8 may not
            _narrow(json.dumps(value, ensure_ascii=False)).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedError(
            "The request body is not Unicode: it has half a surrogate pair.", code="invalid_value"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError("The request body is not valid JSON.", code="invalid_json") from error
    if found.containers > MOST_DEPTH and depth(value, MOST_DEPTH) > MOST_DEPTH:
        raise _too_complex(f"{MOST_DEPTH} arrays and objects inside each other")
    return value


def _validated(schema: type[Body], value: object) -> Any:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise explained(error, value) from error
    except RecursionError as error:
        raise RefusedError("The request body is not valid JSON.", code="invalid_json") from error


class Reading(Protocol):
    """How a body is read; it can be sent to another process, as can what it makes of bodies."""

    def read(self, data: bytes) -> Any:
        """What is asked. Raises RefusedError."""


@dataclass(frozen=True)
class ReadChat:
    """Reads the body of a chat completion."""

    def read(self, data: bytes) -> Chat:
        return self.asked(_parsed(data, MOST_VALUES))

    def asked(self, sent: object) -> Chat:
        """What a body asks for that is parsed already. Raises RefusedError."""
        asked: Chat = _validated(ChatRequest, sent).asked()
        return asked


@dataclass(frozen=True)
class ReadCompletion:
    """Reads the body of a text completion."""

    def read(self, data: bytes) -> Completion:
        asked: Completion = _validated(CompletionRequest, _parsed(data, MOST_NUMBERS)).asked()
        return asked


@dataclass(frozen=True)
class ReadEmbedding:
    """Reads the body of an embedding request."""

    def read(self, data: bytes) -> Embedding:
        asked: Embedding = _validated(EmbeddingRequest, _parsed(data, MOST_NUMBERS)).asked()
        return asked


@dataclass(frozen=True)
class ReadTokenize:
    """Reads the body of a question for tokens."""

    def read(self, data: bytes) -> Tokenize:
        value = _parsed(data, MOST_VALUES)
        if isinstance(value, dict) and value.get("messages") is not None:
            chat: Tokenize = _validated(TokenizeChatRequest, value).asked_tokens()
            return chat
        text: Tokenize = _validated(TokenizeTextRequest, value).asked()
        return text


@dataclass(frozen=True)
class ReadDetokenize:
    """Reads the body of a question for the text of tokens."""

    def read(self, data: bytes) -> Detokenize:
        asked: Detokenize = _validated(DetokenizeRequest, _parsed(data, MOST_NUMBERS)).asked()
        return asked


@dataclass(frozen=True)
class ReadRerank:
    """Reads the body of a request that ranks documents."""

    def read(self, data: bytes) -> Scoring:
        asked: Scoring = _validated(RerankRequest, _parsed(data, MOST_VALUES)).asked()
        return asked


@dataclass(frozen=True)
class ReadScore:
    """Reads the body of a request that scores pairs."""

    def read(self, data: bytes) -> Scoring:
        asked: Scoring = _validated(ScoreRequest, _parsed(data, MOST_VALUES)).asked()
        return asked


def _read(texts: Sequence[Text]) -> int:
    """About how many tokens texts have; one question may stand in front of thousands."""
    sizes: dict[int, int] = {}
    for text in texts:
        if id(text) not in sizes:
            sizes[id(text)] = (
                len(text.encode()) // BYTES_PER_TOKEN if isinstance(text, str) else len(text)
            )
    return sum(sizes[id(text)] for text in texts)


@dataclass(frozen=True)
class UpstreamRequest:
    """A request as the upstream gets it, and what it may cost."""

    path: str
    # as the client names it
    model: str
    body: bytes
    stream: bool
    usage: Usage
    # tokens, as far as they can be told before anybody has counted them
    prompt: int
    most: int
    # the parameter that says what the answer must look like
    form: str | None = None

    @classmethod
    def of(
        cls,
        path: str,
        asked: Chat | Completion,
        own: Mapping[str, Any],
        sent: Mapping[str, Any],
        said: Mapping[str, Any],
        media: int,
    ) -> UpstreamRequest:
        """`own`: what every engine here has of what was sent; `said`: what the upstream gets."""
        forwarded = dict(said)
        if asked.stream:
            every = {"continuous_usage_stats": True} if asked.usage == "every" else {}
            forwarded["stream_options"] = {"include_usage": True, **every}
        options = asked.options()
        prompts = len(asked.prompts) if isinstance(asked, Completion) else 1
        text = json.dumps(own.get("messages", own.get("prompt")), ensure_ascii=False)
        return cls(
            path,
            asked.model,
            json.dumps(forwarded, ensure_ascii=False, separators=(",", ":")).encode("utf-8"),
            stream=asked.stream,
            usage=asked.usage,
            prompt=len(text.encode("utf-8")) // BYTES_PER_TOKEN + media * TOKENS_OF_MEDIA,
            most=options.n * prompts * (options.max_tokens or 0),
            form=format_parameter(sent),
        )

    @classmethod
    def of_texts(
        cls,
        path: str,
        asked: Embedding | Scoring,
        sent: Mapping[str, Any],
        model: str,
        texts: Sequence[Text],
    ) -> UpstreamRequest:
        """For an encoder: `texts` are what it reads."""
        forwarded = {**passed_on(path, sent), "model": model}
        if "documents" in forwarded and isinstance(asked, Scoring):
            # servers differ in how they write a document that is an object
            forwarded["documents"] = asked.documents
        body = json.dumps(forwarded, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        return cls(path, asked.model, body, stream=False, usage="last", prompt=_read(texts), most=0)

    @property
    def reserved(self) -> int:
        return self.prompt + self.most


FORWARDED: Mapping[str, tuple[type[ChatRequest | CompletionRequest], int]] = {
    "/v1/chat/completions": (ChatRequest, MOST_VALUES),
    "/v1/completions": (CompletionRequest, MOST_NUMBERS),
}


@dataclass(frozen=True)
class ReadForwarded:
    """For the upstream at this path, which knows the model by this name."""

    path: str
    model: str
    tokens: KnownTokens = field(default_factory=KnownTokens)
    # what messages may hold beside text
    media: tuple[str, ...] = ()
    # whether the model's template knows that role
    developer: bool = True

    def read(self, data: bytes) -> UpstreamRequest:
        _schema, most = FORWARDED[self.path]
        return self.asked(_parsed(data, most))

    def asked(self, sent: object) -> UpstreamRequest:
        """What a body asks for that is parsed already. Raises RefusedError."""
        schema, _most = FORWARDED[self.path]
        if not isinstance(sent, dict):
            _validated(schema, sent)
        assert isinstance(sent, dict)
        own, media = own_part(self.path, sent, self.media, _validated)
        asked = _validated(schema, own).asked()
        self._refuse_unknown(asked, own, sent)
        # what neither we nor the upstream's list have a field for cannot be in it
        said = in_known_words(passed_on(self.path, sent), developer=self.developer)
        return UpstreamRequest.of(self.path, asked, own, sent, {**said, "model": self.model}, media)

    def _refuse_unknown(
        self, asked: Chat | Completion, own: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> None:
        """A token without weights may end the engine of all: whatever becomes of it elsewhere."""
        numbered = {
            "logit_bias": asked.options().logit_bias,
            "stop_token_ids": asked.options().stop_tokens,
            "allowed_token_ids": sent.get("allowed_token_ids") or (),
        }
        for name, given in numbered.items():
            if unknown := self.tokens.wrong_number(given):
                raise RefusedError(f"{name}: {unknown}", name, "unsupported_value")
        _refuse_texts(
            self.tokens,
            rendered(self.path, own, sent),
            asked.prompts if isinstance(asked, Completion) else (),
            "prompt" if isinstance(asked, Completion) else "messages",
        )


def _refuse_texts(
    tokens: KnownTokens, texts: Sequence[object], prompts: Sequence[Text], param: str
) -> None:
    """Refuses tokens without weights, by their numbers in `prompts` or in any text."""
    numbers = [prompt for prompt in prompts if not isinstance(prompt, str)]
    wrong = next(filter(None, map(tokens.wrong_number, numbers)), None)
    if not wrong and tokens.beyond:
        wrong = tokens.wrong_json(json.dumps(texts, ensure_ascii=False))
    if wrong:
        raise RefusedError(f"{param}: {wrong}", param, "invalid_value")


# each with where its texts are, and how many values its body may have
ENCODED: Mapping[str, tuple[type[EmbeddingRequest | RerankRequest | ScoreRequest], str, int]] = {
    "/v1/embeddings": (EmbeddingRequest, "input", MOST_NUMBERS),
    "/v1/rerank": (RerankRequest, "documents", MOST_VALUES),
    "/v1/score": (ScoreRequest, "text_2", MOST_VALUES),
}


@dataclass(frozen=True)
class ReadEncoded:
    """For the upstream whose model is an encoder, at this path; it knows the model by this name."""

    path: str
    model: str
    tokens: KnownTokens = field(default_factory=KnownTokens)

    def read(self, data: bytes) -> UpstreamRequest:
        schema, param, most = ENCODED[self.path]
        sent = _parsed(data, most)
        if not isinstance(sent, dict):
            _validated(schema, sent)
        assert isinstance(sent, dict)
        own, _media = own_part(self.path, sent, (), _validated)
        asked: Embedding | Scoring = _validated(schema, own).asked()
        texts = asked.texts if isinstance(asked, Embedding) else asked.questions + asked.documents
        _refuse_texts(self.tokens, [own.get(name) for name in TEXTS_OF_ENCODERS], texts, param)
        return UpstreamRequest.of_texts(self.path, asked, sent, self.model, texts)


@dataclass(frozen=True)
class PassedRequest:
    """A question that costs no tokens, as the upstream gets it."""

    path: str
    # as the client names it, if it does
    model: str
    body: bytes


@dataclass(frozen=True)
class ReadPassed:
    """Reads the body of such a question, for the upstream that knows the model by this name."""

    path: str
    model: str
    tokens: KnownTokens = field(default_factory=KnownTokens)

    def read(self, data: bytes) -> PassedRequest:
        sent = _parsed(data, MOST_NUMBERS)
        given = sent if isinstance(sent, dict) else {}
        schema: type[Body] = DetokenizeRequest
        if self.path == "/tokenize":
            is_chat = given.get("messages") is not None
            schema = TokenizeChatRequest if is_chat else TokenizeTextRequest
        asked = _validated(schema, sent)
        if isinstance(asked, DetokenizeRequest) and (
            wrong := self.tokens.wrong_number(asked.tokens)
        ):
            raise RefusedError(f"tokens: {wrong}", "tokens", "invalid_value")
        kept = {name: value for name, value in given.items() if value is not None}
        body = json.dumps({**kept, "model": self.model}, ensure_ascii=False)
        return PassedRequest(self.path, str(given.get("model") or ""), body.encode("utf-8"))


Asked_co = TypeVar("Asked_co", Chat, UpstreamRequest, covariant=True)


class ReadsChat(Protocol[Asked_co]):
    """Reads chat requests."""

    def asked(self, sent: object) -> Asked_co:
        """What a body asks for that is parsed already. Raises RefusedError."""


@dataclass(frozen=True)
class ResponseAsked(Generic[Asked_co]):
    """A response that is asked for: as a chat request, and what it repeats of its own request."""

    chat: Asked_co
    echo: str
    encodes_thoughts: bool


@dataclass(frozen=True)
class ReadResponse(Generic[Asked_co]):
    """Reads the body of a request for a response; `chat` reads the chat request that is the same.

    So there is one way to prompts, limits and upstreams.
    """

    chat: ReadsChat[Asked_co]

    def read(self, data: bytes) -> ResponseAsked[Asked_co]:
        body: ResponsesRequest = _validated(ResponsesRequest, _parsed(data, MOST_VALUES))
        try:
            chat = self.chat.asked(chat_body(body))
        except RefusedError as error:
            message, param = in_our_terms(error.message, error.param)
            raise RefusedError(message, param, error.code) from error
        return ResponseAsked(chat, echoed(body), body.encodes_thoughts)
