"""From messages to prompt tokens, and from tokens back to text as they come."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from deepseek_serving.errors import TokenizerError, library_error
from deepseek_serving.text.client_text import ClientText
from deepseek_serving.text.documents import load_tokenizer, read_object
from deepseek_serving.text.prompt_options import USUAL, PromptOptions
from deepseek_serving.text.prompts import Prompt, PromptEncoder
from deepseek_serving.text.rendering import Renderer
from deepseek_serving.text.slices import SlicedTokenizer, TooManyTokensError
from deepseek_serving.text.template import read_templates
from deepseek_serving.text.thinking import END_THINK, THINK

# of thoughts and of calls, in the families that reply.py knows
SPECIALS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
MARK = re.compile(r"^</?(think|tool_call)>$|^<\uff5ctool\u2581")


# In conversations alone, in all prompts, or nowhere, as it is in transformers and vLLM.
TextIsData: TypeAlias = Literal["chat", "always", "never"]


class TextError(ValueError):
    """The text cannot be made into tokens."""


def added_tokens(tokenizer: Tokenizer) -> dict[int, str]:
    """The texts that are read as one token each, by the numbers of these."""
    added = tokenizer.get_added_tokens_decoder()
    return {number: str(token.content) for number, token in added.items()}


def _specials(config: Mapping[str, Any]) -> dict[str, str]:
    """Those that are set, as transformers tells templates of them."""
    found = {}
    for name in SPECIALS:
        value = config.get(name)
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            found[name] = content
    return found


@contextmanager
def _text_errors() -> Iterator[None]:
    try:
        yield
    except TooManyTokensError:
        raise
    except BaseException as error:
        raise TextError(f"the text: {library_error('tokenizers', error)}") from error


class ChatTokenizer:
    """Tokenizer and chat template of a graph directory."""

    def __init__(self, directory: Path, text_is_data: TextIsData = "chat") -> None:
        """`text_is_data`: where a client's marks are text. Raises TokenizerError."""
        self._tokenizer = load_tokenizer(directory)
        self._sliced = SlicedTokenizer(self._tokenizer)
        self._encoder = PromptEncoder(self._tokenizer, self._sliced)
        config = read_object(directory / "tokenizer_config.json", TokenizerError)
        self._prompts_are_data = text_is_data == "always"
        client = ClientText() if text_is_data == "never" else self._encoder.client
        self._templates = read_templates(directory, config, client)
        # of all that is rendered, and of what is where tools are given
        self.tool_template_source = self._templates.tool_use.source
        self.template_source = self._templates.default.source + self.tool_template_source
        self._renderer = Renderer(
            self._templates, client, _specials(config), thinks=self._thinks(self.template_source)
        )
        special = {
            token: str(added.content)
            for token, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
        }
        # some tokenizers count the marks of thoughts and calls as special; they are text here
        self._marks = {t: content for t, content in special.items() if MARK.search(content)}
        self._unseen = special.keys() - self._marks.keys()

    @property
    def takes_tools(self) -> bool:
        """Whether there is a chat template that knows tools."""
        return self._templates.tool_use.takes_tools

    @property
    def has_tool_use(self) -> bool:
        """Whether conversations with tools have a template of their own."""
        return self._templates.tool_use is not self._templates.default

    @property
    def size(self) -> int:
        """Tokens that there are, added ones included."""
        return int(self._tokenizer.get_vocab_size())

    def token(self, content: str) -> int | None:
        """The number of a token, if the tokenizer has it as one."""
        number = self._tokenizer.token_to_id(content)
        return None if number is None else int(number)

    def is_special(self, token: int) -> bool:
        """Whether a token is not in the text of an answer."""
        return token in self._unseen

    @property
    def added(self) -> dict[int, str]:
        """The texts that are read as one token each, by the numbers of these."""
        return added_tokens(self._tokenizer)

    def named(self, token: int) -> str | None:
        """What a token stands for, if the tokenizer has it."""
        return self._tokenizer.id_to_token(token) if token >= 0 else None

    def _thinks(self, template: str) -> bool:
        """Whether the model has marks for thoughts, as a token or as text of its template."""
        return self.token(END_THINK) is not None or any(
            mark in template for mark in (THINK, END_THINK)
        )

    def rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: PromptOptions = USUAL,
    ) -> Prompt:
        """The conversation so far, as its template writes it. Raises TemplateError, OptionError."""
        return self._renderer.render(messages, tools, options)

    def text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation so far, ready for the assistant's turn."""
        return self.rendered(messages, tools).text

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The same as tokens."""
        return self.encode_prompt(self.rendered(messages))

    def encode_prompt(self, prompt: Prompt, *, most: int | None = None) -> list[int]:
        """Tokens of a rendered conversation. Raises TextError or TooManyTokensError."""
        with _text_errors():
            return self._encoder.encode(prompt, most=most)

    def encode_text(self, text: str, *, most: int | None = None) -> list[int]:
        """Tokens of a text that a client wants to be gone on with, and that no template wrote."""
        if not self._prompts_are_data:
            return self.encode(text, most=most)
        with _text_errors():
            return self._encoder.data(text, special=True, most=most)

    def encode(self, text: str, *, whole: bool = True, most: int | None = None) -> list[int]:
        """Tokens of a text; a `whole` one gets the special tokens that the tokenizer adds.

        Raises TextError, or TooManyTokensError as soon as there are more than `most`.
        """
        with _text_errors():
            # a template writes special tokens itself
            return self._sliced.encode(text, special=whole, most=most)

    def decode(self, tokens: Sequence[int]) -> str:
        try:
            # unlike for a single sequence, the interpreter's lock is let go for a batch
            (text,) = self._tokenizer.decode_batch([list(tokens)], skip_special_tokens=False)
        except BaseException as error:
            raise TextError(f"the tokens: {library_error('tokenizers', error)}") from error
        return str(text)

    def stream(self) -> TextStream:
        return TextStream(self._tokenizer, self._marks)


class TextStream:
    """Text of a growing sequence of tokens; holds back bytes that are not yet a character."""

    def __init__(self, tokenizer: Tokenizer, marks: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._marks = marks
        self._decoder = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        mark = self._marks.get(token)
        if mark is not None:
            return mark
        try:
            return self._decoder.step(self._tokenizer, token) or ""
        except BaseException as error:
            raise library_error("tokenizers", error) from error


class StopScanner:
    """Passes text on until a stop string appears; holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str], *, keep: bool = False) -> None:
        """`keep`: the stop string is shown, too."""
        self._stops = tuple(stops)
        self._keep = keep
        self._held = ""
        self.stopped = False
        # what came behind the stop string
        self.rest = ""

    def push(self, text: str) -> str:
        """Text that may be shown now."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [
            (place, len(stop)) for stop in self._stops if (place := self._held.find(stop)) >= 0
        ]
        if found:
            self.stopped = True
            place, length = min(found)
            end = place + length
            shown, self.rest = self._held[: end if self._keep else place], self._held[end:]
            self._held = ""
            return shown
        keep = self._possible_start()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stops)) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

    def finish(self) -> str:
        """What was held back, once no more text will come."""
        shown, self._held = self._held, ""
        return shown
