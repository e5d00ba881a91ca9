"""A model that reads its prompt and says what a script has for it, whatever restricts its tokens.

It stands in for a trained one, so that what a client library makes of an answer depends on the
library and on the service alone. Like a trained one it sees nothing but the tokens of the prompt:
tools and their results come to it through the chat template, and schemas as the tokens that the
service lets it choose from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from conversation import BY_TYPE, CONCLUSION, GREETING, PLACE, THOUGHT, WARD
from tokenizers import Tokenizer

from deepseek_serving.runtime import Candidates

# candidates of a step, and the least and the most that one of them is worth
WIDTH = 64
CHOSEN, WELL_FORMED, OTHER = 60.0, 20.0, 0.0
# ends of JSON, for a grammar that wants something else than the script has
CLOSERS = ('"', "}", "]", ",", ":", "{", "3", "n")
LONGEST_TOKEN = 24
# of a tool, as the template has it, and as smolagents tells it in an ordinary message
RESULT = r"<tool_response>\n(.*?)\n</tool_response>|Observation:\n(.*?)(?:<\|im_end\|>|$)"


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """A value for each property."""
    found = {}
    for name, what in schema.get("properties", {}).items():
        kind = what.get("type", "string")
        found[name] = BY_TYPE.get(kind if isinstance(kind, str) else kind[0], WARD)
    return found


def _call(tool: dict[str, Any], arguments: dict[str, Any]) -> str:
    call = {"name": tool["name"], "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def script(prompt: str) -> str:
    """What the model says to a prompt of `chat_template.jinja`."""
    turns = prompt.split("<|im_start|>")[1:-1]
    asked = next((turn for turn in reversed(turns) if turn.startswith("user\n")), "")
    results = [found[1] or found[2] for found in re.finditer(RESULT, asked, re.DOTALL)]
    tools = _tools(turns)
    if results:
        final = next((tool for tool in tools if tool["name"] == "final_answer"), None)
        told = f"It says: {results[-1]}"
        return _call(final, {"answer": told}) if final else told
    thought = f"<think>\n{THOUGHT}\n</think>\n\n" if "Think" in asked else ""
    if tools:
        return thought + _call(tools[0], _arguments(tools[0].get("parameters", {})))
    if thought:
        return thought + CONCLUSION
    if "JSON" in asked:
        return json.dumps(PLACE)
    return GREETING


def _tools(turns: Sequence[str]) -> list[dict[str, Any]]:
    """The functions that the template has written into the first turn."""
    found = re.search(r"<tools>\n(.*?)\n</tools>", turns[0] if turns else "", re.DOTALL)
    lines = found[1].split("\n") if found else []
    return [json.loads(line)["function"] for line in lines]


@dataclass
class _Slot:
    tokens: list[int] = field(default_factory=list)
    prompt: int = 0
    says: str = ""


class ScriptedModel:
    """An engine with the interface of those that run graphs."""

    slots = 8

    def __init__(self, tokenizer: Tokenizer, max_len: int, end: int) -> None:
        self.max_len = max_len
        self._tokenizer = tokenizer
        self._end = end
        self._slots = [_Slot() for _slot in range(self.slots)]
        self._rows = np.zeros((self.slots, tokenizer.get_vocab_size()), dtype=np.float32)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        held = self._slots[slot]
        held.tokens[start:] = tokens
        held.prompt = len(held.tokens)
        text = self._decode(held.tokens)
        # what a template has begun of the answer is no part of it
        begun = text.rfind("<|im_start|>assistant\n")
        held.says = script(text) if begun >= 0 else GREETING
        if text.endswith("<think>\n"):
            held.says = f"{THOUGHT}\n</think>\n\n{held.says}"
        return self._answer([slot])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        slots = range(len(tokens))
        for slot in slots:
            self._slots[slot].tokens[lengths[slot] :] = [tokens[slot]]
        return self._answer(slots)

    def logits(self) -> npt.NDArray[np.float32]:
        return self._rows

    def reset(self) -> None:
        self._slots = [_Slot() for _slot in range(self.slots)]

    def clear(self, slot: int) -> None:
        self._slots[slot] = _Slot()

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def _answer(self, slots: Sequence[int]) -> Candidates:
        self._rows[:] = OTHER
        for row, slot in enumerate(slots):
            self._score(self._rows[row], self._slots[slot])
        rows = self._rows[: len(slots)]
        best = np.argsort(-rows, axis=1, kind="stable")[:, :WIDTH]
        return Candidates(np.take_along_axis(rows, best, axis=1), best.astype(np.int64))

    def _score(self, row: npt.NDArray[np.float32], held: _Slot) -> None:
        """The script's next token first; of those that go on with it the longest."""
        rest = _rest(held.says, self._decode(held.tokens[held.prompt :]))
        row[self._end] = WELL_FORMED if rest else CHOSEN
        for place, closer in enumerate(CLOSERS):
            for token in self._tokenizer.encode(closer, add_special_tokens=False).ids[:1]:
                row[token] = WELL_FORMED - 1 - place
        for length in range(1, min(len(rest), LONGEST_TOKEN) + 1):
            for start in (rest, rest.lstrip()):
                ids = self._tokenizer.encode(start[:length], add_special_tokens=False).ids
                if len(ids) == 1:
                    row[ids[0]] = CHOSEN - (start is not rest) + length / 100


def _rest(says: str, said: str) -> str:
    """What is left of the script; a grammar may have other white space than it has."""
    if says.startswith(said):
        return says[len(said) :]
    left = list("".join(said.split()))
    for place, character in enumerate(says):
        if not left:
            return says[place:]
        if character.isspace():
            continue
        if character != left.pop(0):
            return ""
    return ""
