"""How families of models write calls of tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


def deepseek_mark(*words: str) -> str:
    """A token of DeepSeek's own, with the bars and spaces that they are written with."""
    return "<\uff5c" + "\u2581".join(words) + "\uff5c>"


@dataclass(frozen=True)
class ToolFormat:
    """How a family of chat templates has its model write calls.

    `{name}` in `head` stands for the function's; its arguments follow as JSON, and then `tail`.
    What is a mark of the tokenizer in these texts is a token of its own.
    """

    name: Literal["hermes", "deepseek", "deepseek_v3_1", "llama"]
    # around each call, as marks; without an `end` calls are all of the reply
    begin: str
    end: str
    head: str
    tail: str
    # between two calls: the first is what the grammar writes, if it is not one of several
    between: tuple[str, ...] = ("\n",)
    # around all calls of a reply
    outer: tuple[str, str] = ("", "")
    # a mark that may come before the calls
    preface: str = ""
    # members of the object that a call is, which hold its arguments; none where they are all of it
    members: tuple[str, ...] = ()
    # templates of this family want earlier calls' arguments as an object, or as its text
    arguments_as_object: bool = True

    @property
    def opens(self) -> str:
        """What the first call of a reply begins with, at the latest."""
        return self.outer[0] or self.begin

    def called(self) -> re.Pattern[str]:
        """Finds a call up to its arguments, as the grammar writes it; its group is the name."""
        before, after = re.escape(self.head).split(re.escape("{name}"))
        return re.compile(before + "([A-Za-z0-9_.-]{1,64})" + after)


HERMES = ToolFormat(
    "hermes",
    "<tool_call>",
    "</tool_call>",
    head='\n{"name": "{name}", "arguments": ',
    tail="}\n",
    members=("arguments", "parameters"),
)
LLAMA = ToolFormat(
    "llama",
    "{",
    "",
    head='"name": "{name}", "parameters": ',
    tail="}",
    between=("; ", ";", "\n"),
    preface="<|python_tag|>",
    members=("parameters", "arguments"),
)
SEPARATOR = deepseek_mark("tool", "sep")
CALLS = (deepseek_mark("tool", "calls", "begin"), deepseek_mark("tool", "calls", "end"))
CALL_BEGIN, CALL_END = (deepseek_mark("tool", "call", word) for word in ("begin", "end"))
DEEPSEEK = ToolFormat(
    "deepseek",
    CALL_BEGIN,
    CALL_END,
    head=f"function{SEPARATOR}{{name}}\n```json\n",
    tail="\n```",
    outer=CALLS,
    arguments_as_object=False,
)
DEEPSEEK_V3_1 = ToolFormat(
    "deepseek_v3_1",
    CALL_BEGIN,
    CALL_END,
    head=f"{{name}}{SEPARATOR}",
    tail="",
    between=("",),
    outer=CALLS,
    arguments_as_object=False,
)


def tool_format(template: str) -> ToolFormat | None:
    """The family of a chat template, by the marks that it writes."""
    if HERMES.begin in template:
        return HERMES
    if CALL_BEGIN in template:
        return DEEPSEEK if "```json" in template else DEEPSEEK_V3_1
    return LLAMA if "ipython" in template and '"parameters"' in template else None
