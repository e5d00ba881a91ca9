"""What an answer must look like: as a grammar, and to its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepseek_serving.backends.errors import UnsupportedError
from deepseek_serving.generation.call_scanner import ExpectedCalls
from deepseek_serving.generation.constrained import Thoughts
from deepseek_serving.generation.grammar_text import Calls, GrammarWriter, TextThoughts, Wanted
from deepseek_serving.generation.reply import END_THINK, THINK
from deepseek_serving.generation.request import Format, Tools
from deepseek_serving.generation.tool_formats import ToolFormat
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.tokenizer import ChatTokenizer

# whether the prompt has begun thoughts, has them behind it, or leaves them to the model
Opening = Literal["begun", "over", "open"]


def opening(prompt: Prompt) -> Opening:
    """What a prompt's end says of thoughts."""
    if prompt.in_thoughts:
        return "begun"
    return "over" if prompt.marked.rstrip().endswith(END_THINK) else "open"


@dataclass(frozen=True)
class WantedAnswer:
    """How an answer is read, and the grammar that holds it, if one does.

    `thinking` is None for models that do not think, and says otherwise whether the prompt has begun
    thoughts. `parameter` is what the request asked for the grammar by.
    """

    thinking: bool | None = None
    calls: ExpectedCalls | None = None
    grammar: str | None = None
    thoughts: Thoughts | None = None
    parameter: str = ""


FREE = WantedAnswer()


class WantedAnswers:
    """Says for one model what answers must look like."""

    def __init__(
        self, tokenizer: ChatTokenizer, form: ToolFormat | None, writer: GrammarWriter
    ) -> None:
        self._form = form
        self._writer = writer
        # each one token where the model was trained to think
        self._marks = tokenizer.token(THINK), tokenizer.token(END_THINK)
        self._thinks = self._marks[1] is not None or any(
            mark in tokenizer.template_source for mark in (THINK, END_THINK)
        )
        self._breaks = frozenset(
            tokens[0]
            for text in ("\n", "\n\n")
            if len(tokens := tokenizer.encode(text, whole=False)) == 1
        )

    def of(self, prompt: Prompt, tools: Tools | None, asked: Format | None) -> WantedAnswer:
        """Raises SchemaError or UnsupportedError."""
        begins = opening(prompt)
        calls = self._calls(tools, asked)
        thinking = begins == "begun" if self._thinks else None
        expected = None
        if tools is not None:
            assert self._form is not None
            held = calls is not None and asked is None and bool(tools.force)
            names = frozenset(function["name"] for function in tools.functions)
            expected = ExpectedCalls(self._form, names, held=held, single=not tools.parallel)
        if calls is None and asked is None:
            return WantedAnswer(thinking, expected)
        forced = tools is not None and bool(tools.force)
        if begins == "over":
            # what is held to a grammar has no thoughts, whatever it begins with
            thinking = None
        thoughts, written = self._thoughts(begins)
        wanted = Wanted(calls, None if forced else asked, written)
        return WantedAnswer(
            thinking, expected, self._writer.write(wanted), thoughts, wanted.parameter
        )

    def of_text(self, asked: Format | None) -> WantedAnswer:
        """Of what goes on with a text: from its first token on, since no template begins thoughts.

        Raises SchemaError.
        """
        if asked is None:
            return FREE
        wanted = Wanted(format=asked)
        return WantedAnswer(grammar=self._writer.write(wanted), parameter=wanted.parameter)

    def _calls(self, tools: Tools | None, asked: Format | None) -> Calls | None:
        """The calls that a grammar must know."""
        if tools is None:
            return None
        assert self._form is not None
        functions, several = tools.functions, tools.parallel
        if tools.force:
            functions = [f for f in functions if f["name"] in tools.force]
            return Calls(self._form, functions, several=several)
        if asked is not None:
            if asked.kind == "tags":
                raise UnsupportedError(
                    asked.parameter, "A structural_tag cannot be combined with tools."
                )
            return Calls(self._form, functions, several=several)
        if not any(function.get("strict") for function in functions):
            return None
        # what nobody asked to be strict is held to be an object, and no more
        functions = [f if f.get("strict") else {"name": f["name"]} for f in functions]
        return Calls(self._form, functions, several=several, optional=True)

    def _thoughts(self, begins: Opening) -> tuple[Thoughts | None, TextThoughts | None]:
        """What stands before the grammar: as tokens, or as text that it must know itself."""
        if not self._thinks or begins == "over":
            return None, None
        begin, end = self._marks
        if end is None or (begin is None and begins == "open"):
            return None, TextThoughts(THINK, END_THINK, begun=begins == "begun")
        first = None if begins == "begun" else begin
        return Thoughts(end, first, self._breaks), None
