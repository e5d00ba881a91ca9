"""Whatever an answer consists of, its events and its response in one piece say the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.responses_input import echoed
from deepseek_serving.http.responses_output import MalformedAnswerError, Output
from deepseek_serving.http.responses_shape import ResponseShape
from deepseek_serving.http.returned_thoughts import decoded
from deepseek_serving.http.schema.responses import ResponsesRequest

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ECHO = echoed(ResponsesRequest.model_validate({"model": "m", "input": "Where?"}))
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
OPEN_ENDED = ("response.output_text.delta", "response.reasoning_text.delta")

Choice = dict[str, Any]


def delta(**members: Any) -> Choice:
    return {"delta": members, "logprobs": None}


def call(index: int, arguments: str, name: str | None = None) -> Choice:
    function = {"name": name, "arguments": arguments}
    made: dict[str, Any] = {"index": index, "function": function}
    if name:
        made["id"] = f"call_{index}"
    return delta(tool_calls=[made])


def calls(bodies: Sequence[Sequence[str]]) -> list[list[Choice]]:
    """Each call in as many deltas as it has pieces of arguments."""
    return [
        [call(index, piece, f"find_{index}" if first else None) for first, piece in _firsts(body)]
        for index, body in enumerate(bodies)
    ]


def _firsts(pieces: Sequence[str]) -> Iterable[tuple[bool, str]]:
    return ((number == 0, piece) for number, piece in enumerate(pieces))


TEXT = st.text(st.sampled_from('ab \n"é漢😀'), min_size=1, max_size=4)
TEXTS = st.lists(
    st.one_of(
        st.builds(lambda text: delta(content=text), TEXT),
        st.builds(lambda text: delta(reasoning_content=text), TEXT),
        st.just(delta()),
    ),
    max_size=4,
)


@st.composite
def answers(draw: st.DrawFn) -> list[Choice]:
    """Texts and thoughts in any order; between them calls, each of them in one go."""
    made = calls(draw(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=3)))
    parts = [draw(TEXTS)]
    for one in made:
        parts += [one, draw(TEXTS)]
    return list(itertools.chain.from_iterable(parts))


def sent(text: str) -> list[dict[str, Any]]:
    """The events of a stream."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def streamed(choices: Sequence[Choice], finish: str) -> list[dict[str, Any]]:
    shape = ResponseShape("m", ECHO)
    told = [shape.begun(), *(shape.told([choice]) for choice in choices)]
    return sent("".join([*told, *shape.ended(finish, USAGE)]))


def whole(choices: Sequence[Choice], finish: str) -> dict[str, Any]:
    shape = ResponseShape("m", ECHO)
    shape.told(choices)
    return dict(json.loads(shape.whole(finish, USAGE)))


def unnamed(value: Any) -> Any:
    """Without what is different each time."""
    if isinstance(value, Mapping):
        left = {name: unnamed(member) for name, member in value.items()}
        return {n: m for n, m in left.items() if n not in ("id", "created_at", "completed_at")}
    return [unnamed(item) for item in value] if isinstance(value, list) else value


def unparsed(value: Any) -> Any:
    """Without what the client adds."""
    if isinstance(value, Mapping):
        members = {name: unparsed(member) for name, member in value.items()}
        return {n: m for n, m in members.items() if n not in ("parsed", "parsed_arguments")}
    return [unparsed(item) for item in value] if isinstance(value, list) else value


def folded(events: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The items, put together of deltas alone, with what each said at its end."""
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        place = int(event.get("output_index", -1))
        if event["type"] == "response.output_item.added":
            assert place == len(items)
            items[place] = {"added": event["item"], "text": "", "closed": False}
        elif event["type"].endswith(".delta"):
            assert not items[place]["closed"]
            items[place]["text"] += event["delta"]
        elif event["type"] == "response.output_item.done":
            assert not items[place]["closed"]
            items[place] |= {"closed": True, "done": event["item"]}
    return items


def text_in(item: Mapping[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part["text"] for part in item["content"])


@given(answers(), st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
def test_a_stream_folds_into_the_response_in_one_piece(choices: list[Choice], finish: str) -> None:
    events = streamed(choices, finish)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    first, second, *_rest, last = events
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    status = "completed" if finish in ("stop", "tool_calls") else "incomplete"
    assert last["type"] == f"response.{status}"
    assert last["response"]["status"] == status
    assert unnamed(last["response"]) == unnamed(whole(choices, finish))
    items = folded(events)
    assert [items[place]["done"] for place in sorted(items)] == last["response"]["output"]
    for item in items.values():
        assert item["text"] == text_in(item["done"])
        assert item["added"]["id"] == item["done"]["id"]


@given(answers(), st.sampled_from(["stop", "length"]))
def test_openai_reads_every_event_without_loss(choices: list[Choice], finish: str) -> None:
    events = streamed(choices, finish)
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    told: list[Any] = []
    for event in events:
        parsed = EVENT.validate_python(event)
        assert type(parsed).__name__ != "BaseModel"
        assert parsed.to_dict(exclude_none=False) == event
        told.extend(state.handle_event(parsed))
    final = told[-1].response
    output = events[-1]["response"]["output"]
    assert unparsed(final.to_dict(exclude_none=False)["output"]) == output
    text = "".join(text_in(item) for item in output if item["type"] == "message")
    assert Response.model_validate(events[-1]["response"]).output_text == text


@given(answers())
def test_nothing_but_white_space_is_lost(choices: list[Choice]) -> None:
    output = whole(choices, "stop")["output"]
    for kind, name in (("message", "content"), ("reasoning", "reasoning_content")):
        said = "".join(choice["delta"].get(name, "") for choice in choices)
        told = "".join(text_in(item) for item in output if item["type"] == kind)
        assert "".join(told.split()) == "".join(said.split())
    made = [c["delta"]["tool_calls"][0] for c in choices if "tool_calls" in c["delta"]]
    called = [item for item in output if item["type"] == "function_call"]
    assert [item["name"] for item in called] == [
        call["function"]["name"] for call in made if call["function"]["name"]
    ]
    assert "".join(item["arguments"] for item in called) == "".join(
        call["function"]["arguments"] for call in made
    )


def test_thoughts_are_encoded_where_that_is_asked_for() -> None:
    shape = ResponseShape("m", ECHO, Output(encodes_thoughts=True))
    events = sent(shape.told([delta(reasoning_content="Hm."), delta(content="A")]))
    (done,) = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert decoded(done["encrypted_content"]) == "Hm."
    thought, message = json.loads(shape.whole("stop", USAGE))["output"]
    assert thought == done
    assert "encrypted_content" not in message


def test_events_come_in_openai_s_order() -> None:
    choices = [
        delta(reasoning_content="Hm."),
        delta(content="\n"),
        delta(content="I look."),
        call(0, '{"bed":', "find"),
        call(0, "3}"),
    ]
    kinds = [event["type"].removeprefix("response.") for event in streamed(choices, "tool_calls")]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_white_space_around_calls_is_no_message() -> None:
    choices = [delta(content="\n"), call(0, "{}", "find"), delta(content="\n \n")]
    assert [item["type"] for item in whole(choices, "tool_calls")["output"]] == ["function_call"]


@pytest.mark.parametrize(
    ("choices", "finish", "kinds"),
    [
        ([], "stop", ["message"]),
        ([delta(content=" ")], "stop", ["message"]),
        ([delta(reasoning_content="Hm")], "length", ["reasoning"]),
        ([delta(reasoning_content="Hm")], "stop", ["reasoning", "message"]),
        ([], "length", []),
    ],
)
def test_a_complete_answer_has_a_message_or_a_call(
    choices: list[Choice], finish: str, kinds: list[str]
) -> None:
    assert [item["type"] for item in whole(choices, finish)["output"]] == kinds


def test_what_was_cut_says_so() -> None:
    response = whole([call(0, "{}", "find"), call(1, '{"be', "find")], "length")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]


def test_a_failure_ends_what_is_open_and_says_why() -> None:
    shape = ResponseShape("m", ECHO)
    told = shape.begun() + shape.told([delta(content="A sig")])
    error = ApiError(504, "It took too long.", kind="server_error")
    events = sent("".join([told, *shape.failed(error)]))
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "It took too long."}
    (item,) = last["response"]["output"]
    assert (item["status"], text_in(item)) == ("incomplete", "A sig")
    assert EVENT.validate_python(last).response.status == "failed"


def test_probabilities_belong_to_the_text() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}

    def scored(text: str, name: str) -> Choice:
        return {"delta": {name: text}, "logprobs": {"content": [token(text)], "refusal": None}}

    choices = [
        scored("Hm", "reasoning_content"),
        scored(" ", "content"),
        scored("A", "content"),
        scored("B", "content"),
    ]
    thought, message = whole(choices, "stop")["output"]
    assert "logprobs" not in thought["content"][0]
    assert [each["token"] for each in message["content"][0]["logprobs"]] == [" ", "A", "B"]
    deltas = [e for e in streamed(choices, "stop") if e["type"] == "response.output_text.delta"]
    assert [[each["token"] for each in event["logprobs"]] for event in deltas] == [
        [" ", "A"],
        ["B"],
    ]


@pytest.mark.parametrize(
    "choices",
    [
        [call(0, "{}", "find"), call(1, "{}", "find"), call(0, "{}")],
        [call(0, "{}", "find"), delta(content="x"), call(0, "{}")],
        [call(0, "{}")],
    ],
)
def test_calls_that_cannot_be_told_are_refused(choices: list[Choice]) -> None:
    with pytest.raises(MalformedAnswerError, match="call 0"):
        ResponseShape("m", ECHO).told(choices)
