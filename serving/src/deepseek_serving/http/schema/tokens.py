"""The bodies of requests about tokens: what a text or a conversation is made of, and back."""

from __future__ import annotations

from array import array
from typing import Annotated

from pydantic import Field

from deepseek_serving.generation.request import Detokenize, Tokenize
from deepseek_serving.http.schema.body import INTEGERS, Body
from deepseek_serving.http.schema.bounds import MOST_TOKENS, Name, TokenId
from deepseek_serving.http.schema.chat import ChatRequest


class TokenizeTextRequest(Body):
    """The body of POST /tokenize for a text."""

    # without one, that of the service
    model: Name = ""
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False

    def asked(self) -> Tokenize:
        return Tokenize(
            self.model,
            self.prompt,
            special=self.add_special_tokens,
            strings=self.return_token_strs,
        )


class TokenizeChatRequest(ChatRequest):
    """The body of POST /tokenize for a conversation: that of a chat completion does, too."""

    model: Name = ""
    return_token_strs: bool = False

    def asked_tokens(self) -> Tokenize:
        return Tokenize(self.model, self.asked(), strings=self.return_token_strs)


class DetokenizeRequest(Body):
    """The body of POST /detokenize."""

    model: Name = ""
    tokens: Annotated[list[TokenId], Field(max_length=MOST_TOKENS, fail_fast=True), INTEGERS]

    def asked(self) -> Detokenize:
        return Detokenize(self.model, array("i", self.tokens))
