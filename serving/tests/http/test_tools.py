"""Thoughts and calls of tools through the whole API; what the model says is given.

The shipped model has learned neither, so an engine that says what it is told stands in for it. All
else is real: tokenizer, chat templates of the families, scheduler, grammars, sockets, client.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
from support import MODEL, VERSION, serve_app
from tokenizers import AddedToken, Tokenizer

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime import Candidates
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

USER: Any = [{"role": "user", "content": "Where is the patient?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"bed": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["bed"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("find", "move")
]
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}"
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
)
HERMES = "{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS + "<|im_start|>assistant\n"
LLAMA = (
    '{# ipython #}{% if tools %}{{ tools | tojson }}{{ \'{"name": x, "parameters": y}\' }}'
    "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)
THINKING = TURNS + "<|im_start|>assistant\n<think>\n"


class Parrot:
    """Says the same in every slot."""

    slots, max_len = 2, 2000

    def __init__(self, said: Sequence[int], vocabulary: int) -> None:
        self._said = said
        self._rows = np.zeros((self.slots, vocabulary), dtype=np.float32)
        self._begins = [0] * self.slots

    def _answer(self, places: Sequence[tuple[int, int]]) -> Candidates:
        """`places`: of each row, which slot it is and how long its sequence."""
        self._rows[:] = 0
        said = []
        for row, (slot, length) in enumerate(places):
            place = min(max(0, length - self._begins[slot]), len(self._said) - 1)
            said.append(self._said[place])
            self._rows[row, said[-1]] = 50
        values = np.full((len(places), 1), 50, dtype=np.float32)
        return Candidates(values, np.array(said, dtype=np.int64)[:, None])

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self._begins[slot] = start + len(tokens)
        return self._answer([(slot, start + len(tokens))])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        return self._answer([(slot, length + 1) for slot, length in enumerate(lengths)])

    def logits(self) -> npt.NDArray[np.float32]:
        return self._rows

    def reset(self) -> None:
        self._begins = [0] * self.slots

    def clear(self, slot: int) -> None:
        self._begins[slot] = 0


Serve = Callable[..., AbstractContextManager[openai.OpenAI]]


@pytest.fixture
def model(graph: Path, tmp_path: Path) -> Serve:
    """Serve a model with that template, which says that."""

    @contextmanager
    def serve(template: str, said: str, marks: Sequence[str] = ()) -> Iterator[openai.OpenAI]:
        folder = tmp_path / "graph"
        folder.mkdir()
        for path in graph.glob("*.json"):
            shutil.copy(path, folder)
        record = json.loads((folder / "export.json").read_text())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
        tokenizer.save(str(folder / "tokenizer.json"))
        record["vocabulary"] = tokenizer.get_vocab_size()
        (folder / "export.json").write_text(json.dumps(record))
        (folder / "chat_template.jinja").write_text(template)
        tokens = [*tokenizer.encode(said).ids, 2]
        scheduler = Scheduler(Parrot(tokens, record["vocabulary"]), Limits())
        release = Release(MODEL, VERSION, "0" * 64, folder)
        app = create_app(Service(release, scheduler, ChatTokenizer(folder)))
        scheduler.start()
        with (
            serve_app(app) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as sdk,
        ):
            yield sdk

    return serve


def ask(sdk: openai.OpenAI, **more: Any) -> Any:
    return sdk.chat.completions.create(model=MODEL, messages=more.pop("messages", USER), **more)


def call(name: str, bed: int, word: str = "arguments") -> str:
    return json.dumps({"name": name, word: {"bed": bed}})


def test_calls_are_told_from_content(model: Serve) -> None:
    said = f"I look.\n<tool_call>\n{call('find', 3)}\n</tool_call>"
    with model(HERMES, said) as sdk:
        reply = ask(sdk, tools=TOOLS)
        choice = reply.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "I look.\n"
        (made,) = choice.message.tool_calls
        assert (made.type, made.function.name) == ("function", "find")
        assert json.loads(made.function.arguments) == {"bed": 3}
        # its answer goes back to the model, the call as an object that the template can write
        follow = [
            *USER,
            choice.message,
            {"role": "tool", "tool_call_id": made.id, "content": "in bed 3"},
        ]
        assert ask(sdk, messages=follow, tools=TOOLS).usage.prompt_tokens > 50
        # without tools, and with none wanted, the same text is content
        assert ask(sdk).choices[0].message.content == said
        assert ask(sdk, tools=TOOLS, tool_choice="none").choices[0].finish_reason == "stop"


def test_calls_in_a_stream(model: Serve) -> None:
    calls = "\n".join(f"<tool_call>{call('move', bed)}</tool_call>" for bed in (1, 2))
    with model(HERMES, calls) as sdk, ask(sdk, tools=TOOLS, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    made = [entry for chunk in chunks for entry in chunk.delta.tool_calls or []]
    assert [entry.index for entry in made] == [0, 1]
    assert [json.loads(entry.function.arguments)["bed"] for entry in made] == [1, 2]
    assert len({entry.id for entry in made}) == 2
    assert chunks[-1].finish_reason == "tool_calls"


def test_calls_of_the_llama_family(model: Serve) -> None:
    with model(LLAMA, call("move", 4, "parameters")) as sdk:
        (made,) = ask(sdk, tools=TOOLS).choices[0].message.tool_calls
        assert (made.function.name, json.loads(made.function.arguments)) == ("move", {"bed": 4})


@pytest.mark.parametrize(
    ("template", "choice", "names"),
    [
        (HERMES, "required", {"find", "move"}),
        (HERMES, {"type": "function", "function": {"name": "move"}}, {"move"}),
        (LLAMA, {"type": "function", "function": {"name": "find"}}, {"find"}),
    ],
)
def test_a_call_can_be_enforced(model: Serve, template: str, choice: Any, names: set[str]) -> None:
    """Against what the model would say."""
    with model(template, "No.") as sdk:
        reply = ask(sdk, tools=TOOLS, tool_choice=choice, temperature=0).choices[0]
    (made,) = reply.message.tool_calls
    assert made.function.name in names
    assert 1 <= json.loads(made.function.arguments)["bed"] <= 9


def test_arguments_that_are_not_json_are_refused(model: Serve) -> None:
    wrong = {"name": "find", "arguments": "{bed"}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": wrong}]}
    with model(HERMES, "x") as sdk, pytest.raises(openai.BadRequestError, match="are not JSON"):
        ask(sdk, messages=[*USER, message])


def test_a_format_and_tools_exclude_each_other(model: Serve) -> None:
    wanted: Any = {"type": "json_object"}
    with model(HERMES, "x") as sdk:
        with pytest.raises(openai.BadRequestError, match="exclude each other"):
            ask(sdk, tools=TOOLS, response_format=wanted)
        reply = ask(sdk, tools=TOOLS, tool_choice="none", response_format=wanted, max_tokens=3)
        assert reply.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("marks", [(), ("<think>", "</think>")])
def test_thoughts_are_told_from_the_answer(model: Serve, marks: tuple[str, ...]) -> None:
    """Whether the marks are text, or tokens that the tokenizer would hide."""
    with model(THINKING, "Bed 3? Yes.</think>\n\nIn bed 3.", marks) as sdk:
        reply = ask(sdk)
        message = reply.choices[0].message
        assert message.content == "In bed 3."
        assert message.reasoning_content == "Bed 3? Yes."
        details = reply.usage.completion_tokens_details
        assert 3 < details.reasoning_tokens < reply.usage.completion_tokens
        with ask(sdk, stream=True, stop=["bed", "Yes"]) as stream:
            deltas = [chunk.choices[0].delta for chunk in stream]
        thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
        assert "".join(thoughts) == "Bed 3? Yes."
        assert "".join(delta.content or "" for delta in deltas) == "In "


def test_thoughts_that_the_model_begins_itself(model: Serve) -> None:
    template = TURNS + "<|im_start|>assistant\n{# </think> #}"
    with model(template, "<think>Hm.</think>Yes.") as sdk:
        message = ask(sdk).choices[0].message
        assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")


def test_a_format_holds_from_the_end_of_the_thoughts_on(model: Serve) -> None:
    wanted: Any = {"type": "json_object"}
    with model(THINKING, "Hm.</think>No.", ("<think>", "</think>")) as sdk:
        message = ask(sdk, response_format=wanted, max_tokens=40).choices[0].message
        assert message.reasoning_content == "Hm."
        assert message.content.startswith("{")


def test_a_format_needs_an_end_of_thoughts_that_can_be_seen(model: Serve) -> None:
    wanted: Any = {"type": "json_object"}
    with (
        model(THINKING, "Hm.</think>No.") as sdk,
        pytest.raises(openai.BadRequestError, match="cannot be enforced"),
    ):
        ask(sdk, response_format=wanted)
