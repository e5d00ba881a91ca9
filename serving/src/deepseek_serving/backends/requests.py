"""From what a client asks to what is generated: tokens, limits, and the form of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepseek_serving.backends.errors import PromptTooLongError, UnsupportedError
from deepseek_serving.backends.sampling_choice import needs_logits
from deepseek_serving.backends.wanted_answers import FREE, WantedAnswer, WantedAnswers
from deepseek_serving.generation.constrained import Grammar, Grammars
from deepseek_serving.generation.distribution import CANDIDATES
from deepseek_serving.generation.grammar_cost import SchemaError
from deepseek_serving.generation.request import Format, Options, Text, Tools
from deepseek_serving.generation.tool_formats import tool_format
from deepseek_serving.text.known_tokens import KnownTokens
from deepseek_serving.text.prompt_options import (
    USUAL,
    OptionError,
    PromptOptions,
    content_of,
)
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.slices import TooManyTokensError
from deepseek_serving.text.tokenizer import ChatTokenizer, TextError

# No text that anybody writes has so many for each of its tokens.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt, how it is to be answered, and the grammar of `wanted` once it is compiled."""

    prompt: Sequence[int]
    options: Options
    wanted: WantedAnswer = FREE
    grammar: Grammar | None = None

    @property
    def reserved(self) -> int:
        """Tokens that it may cost, as far as the request says."""
        return len(self.prompt) + self.options.n * (self.options.max_tokens or 0)


class RequestFactory:
    """Makes the requests for one model, and refuses what it cannot answer."""

    def __init__(
        self,
        model: str,
        tokenizer: ChatTokenizer,
        grammars: Grammars,
        *,
        max_len: int,
        vocabulary: int,
        has_logits: bool,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._max_len = max_len
        self.vocabulary = vocabulary
        self._known = KnownTokens.of_added(vocabulary, tokenizer.added)
        self._has_logits = has_logits
        self._tool_format = (
            tool_format(tokenizer.tool_template_source) if tokenizer.takes_tools else None
        )
        self._wanted = WantedAnswers(tokenizer, self._tool_format, grammars.writer)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: Options,
        *,
        tools: Tools | None = None,
        asked: Format | None = None,
        prompt: PromptOptions = USUAL,
    ) -> GenerationRequest:
        """Raises TemplateError, PromptTooLongError, UnsupportedError or SchemaError."""
        if tools is not None and self._tool_format is None:
            raise UnsupportedError(
                "tools",
                f"The chat template of {self._model!r} has no tools; ask without them, or "
                "publish the model with a template that has them.",
            )
        self._refuse_hopeless(messages)
        given = tools.rendered() if tools is not None else None
        try:
            rendered = self._tokenizer.rendered(messages, given, prompt)
        except OptionError as error:
            raise UnsupportedError(error.parameter, str(error)) from error
        wanted = self._wanted.of(rendered, tools, asked)
        return self._checked(GenerationRequest(self._encode(rendered), options, wanted))

    async def with_grammar(
        self, requests: Sequence[GenerationRequest], key: str = ""
    ) -> list[GenerationRequest]:
        """Requests that want the same, with its grammar compiled. Cancelling it ends the compiler.

        Raises SchemaError, TrialsBusyError or TrialsEndedError.
        """
        wanted = requests[0].wanted
        assert wanted.grammar is not None
        try:
            grammar = await self._grammars.compile(wanted.grammar, wanted.thoughts, key)
        except SchemaError as error:
            error.parameter = wanted.parameter
            raise
        return [replace(request, grammar=grammar) for request in requests]

    def tokens(self, prompt: str | Sequence[int]) -> Sequence[int]:
        """A prompt as tokens. Raises TextError or PromptTooLongError."""
        self._check_length(0 if isinstance(prompt, str) else len(prompt))
        return self._encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _encode(self, prompt: str | Prompt) -> list[int]:
        """Raises TextError, or PromptTooLongError before more than fits has been read."""
        try:
            if isinstance(prompt, Prompt):
                tokens = self._tokenizer.encode_prompt(prompt, most=self._max_len)
            else:
                tokens = self._tokenizer.encode_text(prompt, most=self._max_len)
        except TooManyTokensError as error:
            raise PromptTooLongError(error.least, self._max_len, whole=False) from error
        # read as characters it would do no harm here, but behind other engines: ADR 0023
        text = prompt.text if isinstance(prompt, Prompt) else prompt
        if wrong := self._known.wrong_text(text):
            raise TextError(wrong)
        return tokens

    def _refuse_hopeless(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raises PromptTooLongError for what is far too long, before it is rendered.

        A template copies all that it is given several times, and others wait for each copy. What
        an assistant has said it may leave out, and white space around a message.
        """
        texts = [
            text
            for message in messages
            if message["role"] != "assistant"
            for text in content_of(message)
        ]
        if sum(map(len, texts)) <= CHARACTERS_PER_TOKEN * self._max_len:
            return
        room = self._max_len
        for text in texts:
            try:
                room -= len(self._tokenizer.encode(text.strip(), whole=False, most=room))
            except TooManyTokensError as error:
                least = self._max_len - room + error.least
                raise PromptTooLongError(least, self._max_len, whole=False) from error

    def _check_length(self, tokens: int) -> None:
        if tokens >= self._max_len:
            raise PromptTooLongError(tokens, self._max_len)

    def completions(
        self, prompts: Sequence[Text], options: Options, asked: Format | None = None
    ) -> list[GenerationRequest]:
        """One for each prompt.

        Raises PromptTooLongError, TextError, SchemaError or UnsupportedError.
        """
        wanted = self._wanted.of_text(asked)
        return [
            self._checked(GenerationRequest(self.tokens(prompt), options, wanted))
            for prompt in prompts
        ]

    def _check_tokens(self, prompt: Sequence[int]) -> None:
        """Where all prompts pass: a tokenizer may have more tokens than the graph's table."""
        self._check_length(len(prompt))
        if not prompt:
            raise TextError("the prompt is empty; this model needs at least one token to go on")
        if wrong := self._known.wrong_number(prompt):
            raise TextError(wrong)

    def _checked(self, request: GenerationRequest) -> GenerationRequest:
        self._check_tokens(request.prompt)
        options = request.options
        needed = needs_logits(options) or (
            request.wanted.parameter if request.wanted.grammar else None
        )
        if needed and not self._has_logits:
            raise UnsupportedError(
                needed,
                "The graph of this release gives no logits, which penalties, logit_bias, "
                f"min_tokens, a top_k over {CANDIDATES}, log probabilities and JSON output need; "
                "publish the release again.",
            )
        for name, numbers in (
            ("logit_bias", options.logit_bias),
            ("stop_token_ids", options.stop_tokens),
        ):
            if wrong := self._known.wrong_number(numbers):
                raise UnsupportedError(name, f"{name}: {wrong}")
        return request
