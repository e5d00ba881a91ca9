"""The routes that say what tokens a text has, and what text tokens have: as vLLM has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from deepseek_serving.backends.errors import PromptTooLongError
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.request import Chat, Detokenize, Tokenize
from deepseek_serving.http.admission import Endpoint, Endpoints
from deepseek_serving.http.auth import Caller
from deepseek_serving.http.common import CallerDep, check_model
from deepseek_serving.http.offload import SMALL, OffLoop
from deepseek_serving.http.openapi import DETOKENIZED, TOKENIZED
from deepseek_serving.http.refusals import refused_as
from deepseek_serving.http.schema.tokens import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from deepseek_serving.http.validation import ReadDetokenize, ReadTokenize
from deepseek_serving.text.known_tokens import is_none, unknown
from deepseek_serving.text.slices import TooManyTokensError
from deepseek_serving.text.tokenizer import TextError

Result = TypeVar("Result")

# of a text whose tokens are asked for, whatever the context is: to cut documents into parts
MOST_COUNTED = 32_768
# written at once, while the interpreter's lock is held
PIECE = 4096


def _pieces(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[begin : begin + PIECE] for begin in range(0, len(items), PIECE))


def _listed(items: Sequence[Any]) -> str:
    """A list as JSON."""
    return f"[{','.join(json.dumps(list(piece))[1:-1] for piece in _pieces(items))}]"


class _Words:
    """What the two routes do; in threads, where there is much of it."""

    def __init__(self, service: Service, off_loop: OffLoop) -> None:
        self._service = service
        self._off_loop = off_loop

    async def _done(self, work: Callable[[], Result], size: int, param: str, who: Caller) -> Result:
        with refused_as(param):
            return await self._off_loop.run(work, who.line) if size > SMALL else work()

    def _tokens(self, asked: Tokenize) -> Sequence[int]:
        text, service = asked.text, self._service
        if isinstance(text, Chat):
            factory = service.requests
            return factory.chat(
                text.messages, text.options(), tools=text.called_tools, prompt=text.prompt
            ).prompt
        most = max(MOST_COUNTED, service.max_len)
        try:
            return service.tokenizer.encode(text, whole=asked.special, most=most)
        except TooManyTokensError as error:
            raise PromptTooLongError(error.least, most, whole=False) from error

    async def tokenize(self, asked: Tokenize, _request: Request, who: Caller) -> Response:
        service, text = self._service, asked.text
        check_model(service, asked.model or service.release.model, who)

        def work() -> str:
            tokens = self._tokens(asked)
            named = [service.tokenizer.named(token) for token in tokens] if asked.strings else None
            return (
                f'{{"count":{len(tokens)},"max_model_len":{service.max_len},'
                f'"tokens":{_listed(tokens)},'
                f'"token_strs":{"null" if named is None else _listed(named)}}}'
            )

        size = len(text) if isinstance(text, str) else SMALL + 1
        param = "prompt" if isinstance(text, str) else "messages"
        return Response(await self._done(work, size, param, who), media_type="application/json")

    async def detokenize(self, asked: Detokenize, _request: Request, who: Caller) -> Response:
        service = self._service
        check_model(service, asked.model or service.release.model, who)

        def work() -> str:
            wrong = unknown(asked.tokens, service.requests.vocabulary)
            if wrong is not None:
                raise TextError(is_none(wrong, service.requests.vocabulary))
            return service.tokenizer.decode(asked.tokens)

        return JSONResponse({"prompt": await self._done(work, len(asked.tokens), "tokens", who)})


def add_tokens(app: FastAPI, service: Service, off_loop: OffLoop) -> Endpoints:
    words = _Words(service, off_loop)
    reading, reading_back = ReadTokenize(), ReadDetokenize()

    @app.post("/tokenize", responses=TOKENIZED, tags=["tokens"])
    async def tokenize(
        _body: TokenizeTextRequest | TokenizeChatRequest, request: Request, who: CallerDep
    ) -> Response:
        """The tokens of a text, or of a conversation as the model gets it."""
        return await words.tokenize(reading.read(await request.body()), request, who)

    @app.post("/detokenize", responses=DETOKENIZED, tags=["tokens"])
    async def detokenize(body: DetokenizeRequest, request: Request, who: CallerDep) -> Response:
        """The text of tokens."""
        return await words.detokenize(body.asked(), request, who)

    return {
        "/tokenize": Endpoint(reading, words.tokenize),
        "/detokenize": Endpoint(reading_back, words.detokenize),
    }
