"""Thoughts and calls of tools through the whole API; what the model says is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from parrot import HERMES, LLAMA, THINKING, TURNS, Parrot, serve_parrot
from real_tokenizers import RealTokenizers
from support import MODEL, VERSION, serve_app

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
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

Serve = Callable[..., AbstractContextManager[openai.OpenAI]]


@pytest.fixture
def model(graph: Path, tmp_path: Path) -> Serve:
    """Serve a model with that template, which says that."""
    return partial(serve_parrot, graph, tmp_path / "graph")


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


def test_a_call_that_was_cut_is_taken_back(model: Serve) -> None:
    wrong = {"name": "find", "arguments": "{bed"}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": wrong}]}
    with model(HERMES, "x") as sdk:
        assert ask(sdk, messages=[*USER, message]).choices[0].message.content == "x"


def test_a_call_or_the_format(model: Serve) -> None:
    wanted: Any = {"type": "json_object", "schema": {"const": "In bed 3."}}
    said = f"<tool_call>\n{call('find', 3)}\n</tool_call>"
    with model(HERMES, said) as sdk:
        reply = ask(sdk, tools=TOOLS, response_format=wanted, temperature=0).choices[0]
        assert [made.function.name for made in reply.message.tool_calls] == ["find"]
        reply = ask(sdk, tools=TOOLS, tool_choice="none", response_format=wanted).choices[0]
        assert reply.message.content == '"In bed 3."'


def test_one_call_where_one_is_wanted(model: Serve) -> None:
    said = "\n".join(f"<tool_call>\n{call('move', bed)}\n</tool_call>" for bed in (1, 2))
    with model(HERMES, said) as sdk:
        for more in ({}, {"tool_choice": "required"}):
            several = ask(sdk, tools=TOOLS, temperature=0, **more).choices[0]
            assert len(several.message.tool_calls) == 2
            reply = ask(sdk, tools=TOOLS, parallel_tool_calls=False, temperature=0, **more)
            (made,) = reply.choices[0].message.tool_calls
            assert json.loads(made.function.arguments) == {"bed": 1}
            assert reply.choices[0].finish_reason == "tool_calls"
            assert reply.usage.completion_tokens < len(said)


def test_an_enforced_call_is_streamed_as_it_is_written(model: Serve) -> None:
    """The name first, then pieces of the arguments, each with the call's index."""
    said = "\n".join(f"<tool_call>\n{call('move', bed)}\n</tool_call>" for bed in (1, 2))
    with (
        model(HERMES, said) as sdk,
        ask(sdk, tools=TOOLS, tool_choice="required", temperature=0, stream=True) as stream,
    ):
        chunks = [chunk.choices[0] for chunk in stream]
    parts = [part for chunk in chunks for part in chunk.delta.tool_calls or []]
    assert [part.function.name for part in parts if part.id] == ["move", "move"]
    assert parts[0].function.arguments == ""
    for index in (0, 1):
        written = "".join(part.function.arguments for part in parts if part.index == index)
        assert json.loads(written) == {"bed": index + 1}
    assert not any(chunk.delta.content for chunk in chunks)
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_that_is_cut_is_a_part_of_one(model: Serve, choice: Any) -> None:
    said = f"<tool_call>\n{call('find', 3)}\n</tool_call>"
    with model(HERMES, said) as sdk:
        for most in range(1, 60):
            reply = ask(sdk, tools=TOOLS, tool_choice=choice, max_tokens=most, temperature=0)
            (answer,) = reply.choices
            assert "arguments" not in (answer.message.content or "")
            if answer.finish_reason != "length":
                break
            for made in answer.message.tool_calls or []:
                assert '{"bed": 3}'.startswith(made.function.arguments)
        assert answer.finish_reason == "tool_calls"


def test_a_strict_function_is_held_to_its_schema(model: Serve) -> None:
    """Against what the model would say, once it has begun a call."""
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    wrong = f"I look. <tool_call>\n{call('find', 33)}\n</tool_call>"
    with model(HERMES, wrong) as sdk:
        loose = ask(sdk, tools=TOOLS, temperature=0).choices[0].message
        assert json.loads(loose.tool_calls[0].function.arguments) == {"bed": 33}
        reply = ask(sdk, tools=strict, temperature=0, max_tokens=200).choices[0].message
    assert reply.content.startswith("I look.")
    assert json.loads(reply.tool_calls[0].function.arguments)["bed"] < 10


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


def test_a_format_holds_where_the_end_of_thoughts_is_text(model: Serve) -> None:
    wanted: Any = {"type": "json_object"}
    with model(THINKING, "Hm. {</think>No.") as sdk:
        message = ask(sdk, response_format=wanted, max_tokens=40, temperature=0).choices[0].message
        assert message.reasoning_content == "Hm. {"
        assert message.content.startswith("{")


@pytest.mark.parametrize("marks", [(), ("<think>", "</think>")])
def test_thoughts_that_a_model_begins_itself_may_come_before_a_format(
    model: Serve, marks: tuple[str, ...]
) -> None:
    wanted: Any = {"type": "json_object"}
    template = TURNS + "<|im_start|>assistant\n{# </think> #}"
    with model(template, "<think>Hm.</think>\n\nNo.", marks) as sdk:
        message = ask(sdk, response_format=wanted, max_tokens=40, temperature=0).choices[0].message
        assert message.reasoning_content == "Hm."
        assert message.content.startswith("{")


@pytest.fixture(scope="module")
def qwen(real_tokenizers: RealTokenizers) -> Iterator[openai.OpenAI]:
    """Qwen3's own tokenizer, in which the marks of calls and thoughts are tokens."""
    directory = real_tokenizers.directory("qwen3")
    tokenizer = real_tokenizers.chat("qwen3")
    record = json.loads((directory / "export.json").read_text())
    said = f"<think>\nA <tool_call>?\n</think>\n\n<tool_call>\n{call('find', 3)}\n</tool_call>"
    end = json.loads((directory / "config.json").read_text())["eos_token_id"]
    tokens = [*tokenizer.encode(said, whole=False), end]
    scheduler = Scheduler(Parrot(tokens, record["vocabulary"]), Limits())
    service = Service(Release(MODEL, VERSION, "0" * 64, directory), scheduler, tokenizer)
    scheduler.start()
    with (
        serve_app(create_app(service)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as sdk,
    ):
        yield sdk


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_of_a_published_tokenizer(qwen: openai.OpenAI, choice: Any) -> None:
    """Behind thoughts that the model begins itself, tried and compiled as for any client."""
    (answer,) = ask(qwen, tools=TOOLS, tool_choice=choice, temperature=0).choices
    assert answer.message.reasoning_content.strip() == "A <tool_call>?"
    (made,) = answer.message.tool_calls
    assert (made.function.name, json.loads(made.function.arguments)) == ("find", {"bed": 3})
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content
