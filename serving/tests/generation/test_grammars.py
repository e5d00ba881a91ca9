"""Schemas that ask for more than a request may take: refused, tried elsewhere, never in the way."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from support import MODEL, serve_app
from waiting import PATIENCE, http_client, until

from deepseek_serving.backends.local import Service
from deepseek_serving.generation import constrained, grammar_queue, grammar_trial
from deepseek_serving.generation.constrained import Grammars
from deepseek_serving.generation.grammar_cost import (
    LARGEST_PATTERN,
    SchemaError,
    check_cost,
    divisor_states,
    pattern_places,
)
from deepseek_serving.generation.grammar_queue import (
    ALLOWANCE_SECONDS,
    SLOW_PLACES,
    SLOW_QUEUE_PER_KEY,
    Outcome,
    Trial,
    Trials,
    TrialsBusyError,
    TrialsEndedError,
)
from deepseek_serving.generation.grammar_vocabulary import open_vocabulary
from deepseek_serving.generation.sampling import SamplingError
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "A release?"}]}
ORDINARY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40, "description": "x" * 200_000},
        "bed": {"type": "integer", "minimum": 1, "maximum": 9},
        "when": {"type": "string", "format": "date-time"},
        "mail": {"type": "string", "pattern": r"^[a-z]{1,20}@[a-z]{1,20}\.(org|com)$"},
        "price": {"type": "number", "multipleOf": 0.01},
        "kind": {"enum": [f"kind {number}" for number in range(500)]},
        "more": {"type": "array", "items": {"$ref": "#"}, "minItems": 0, "maxItems": 5},
    },
    "required": ["name", "bed"],
    "additionalProperties": False,
}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _level in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def patterns(count: int) -> dict[str, Any]:
    return {"type": "string", "allOf": [{"pattern": f".*x{n}.*"} for n in range(count)]}


COSTLY: dict[str, dict[str, Any]] = {
    "repetitions of repetitions": {"type": "string", "pattern": "^(a{1000}){1000}$"},
    "the same, one by one": {"type": "string", "pattern": "((((a{9}){9}){9}){9})"},
    "alternatives, repeated": {"type": "string", "pattern": "((a|b|cd){50}|e{9,2000}){30}"},
    "a key's pattern": {"type": "object", "patternProperties": {"^(a{99}){99}$": {}}},
    "many keys' patterns": {"patternProperties": {f"^{n}a": {} for n in range(40)}},
    "a count of too many digits": {"type": "string", "pattern": "a{1" + "0" * 5000 + "}"},
    "a large divisor": {"type": "integer", "multipleOf": 1000003},
    "divisors of one number": {"allOf": [{"multipleOf": n} for n in (97, 101, 103)]},
    "many divisors": {"properties": {f"p{n}": {"multipleOf": 9000 + n} for n in range(9)}},
    "patterns at once": patterns(30),
    "patterns at once, nested": {"allOf": [patterns(3), patterns(3)]},
    "alternatives at once": {"allOf": [{"anyOf": [{"const": n}] * 11} for n in range(3)]},
    "a long answer": {"type": "string", "minLength": 10**9},
    "a long answer of short ones": {
        "minItems": 2000,
        "items": {"minItems": 2000, "items": {"type": "integer"}},
    },
    "depth": nested(70),
    "lists in lists": {"enum": [json.loads("[" * 90 + "]" * 90)]},
    "values": {"enum": list(range(6000))},
    "a long value": {"const": "x" * 200_000},
    "properties": {"properties": {f"p{n}": {"type": "integer"} for n in range(3000)}},
    "parts": {"anyOf": [{"type": "integer"}] * 30_000},
}


@pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY.keys())
def test_what_is_too_costly_is_refused_before_it_is_compiled(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        check_cost(schema)
    with pytest.raises(SchemaError):
        check_cost({"type": "object", "properties": {"inside": schema}})


def test_ordinary_schemas_are_not() -> None:
    check_cost(ORDINARY)
    check_cost(nested(20))
    # an answer's text, not what it must look like
    check_cost({"properties": {"pattern": {"type": "string"}, "multipleOf": {"type": "integer"}}})


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{3}-\d{4}", 8),
        ("(ab|c){4}", 12),
        ("[a-z{9}]{5}", 5),
        ("[]a]{5}", 5),
        (r"a\{9}", 4),
        ("a{2}{3}", 6),
        ("(a{,5}){2}", 10),
        ("x*", 1),
        ("((((", 0),
        ("))))", 4),
        ("[", 1),
        ("\\", 1),
    ],
)
def test_the_places_of_a_pattern(pattern: str, places: int) -> None:
    # what no dialect takes for a repetition is text
    assert pattern_places(pattern) == places if "{," not in pattern else places > 0


@given(st.text(alphabet="ab(){}[]|*+?,\\0123456789^$.", max_size=60))
def test_any_text_may_be_a_pattern(text: str) -> None:
    assert 0 <= pattern_places(text) <= 10**10
    assert pattern_places(f"({'a' * (LARGEST_PATTERN + 1)}){text}") > LARGEST_PATTERN


@pytest.mark.parametrize(
    ("divisor", "states"), [(5, 5), (1000, 1), (0.01, 1), (1e300, 1), (2.5, 25), (1000003, 1000003)]
)
def test_zeros_cost_a_divisor_nothing(divisor: float, states: int) -> None:
    assert divisor_states(divisor) == states


# --- the process ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is the same thing at a third of its length."""
    monkeypatch.setattr(grammar_queue, "SLOW_SECONDS", 0.3)


@pytest.fixture
def grammars(graph: Path) -> Iterator[Grammars]:
    grammars = Grammars(graph, 1024, {2})
    yield grammars
    grammars.close()


def wicked(number: int = 0) -> str:
    """A grammar whose compiler would take minutes, past the model of costs."""
    pieces = [{"pattern": f".*x{n}y{number}.*"} for n in range(30)]
    text = json.dumps({"type": "string", "allOf": pieces})
    return str(LLMatcher.grammar_from_json_schema(text))


def outcome(trial: Trial) -> Outcome:
    return trial.result.result(PATIENCE)


def trials_of(grammars: Grammars) -> Trials:
    return grammars._trials


def test_a_grammar_that_takes_too_long_is_ended_and_remembered(grammars: Grammars) -> None:
    async def compiling(grammar: str) -> None:
        await grammars.compile(grammar, None, "somebody")

    for _time in range(2):
        with pytest.raises(SchemaError, match="takes longer to compile"):
            asyncio.run(compiling(wicked()))
    # the second answer took no second trial
    trials = trials_of(grammars)
    assert trials._accounts.used("somebody") < 1.9
    asyncio.run(compiling(grammars.json(ORDINARY)))


def test_a_grammar_that_takes_too_much_memory_is_ended(
    grammars: Grammars, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_trial, "MEMORY_BYTES", 2**20)
    tokenizer = open_vocabulary(graph / "tokenizer.json", 1024, [2]).tokenizer
    order = {"grammar": wicked(), "seconds": 5.0}
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        grammar_trial._in_child(tokenizer, order, write)
        os._exit(0)
    os.close(write)
    said = os.read(read, 4096)
    os.close(read)
    _pid, status = os.waitpid(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended == -signal.SIGABRT or json.loads(said)["error"] == grammar_trial.TOO_LARGE


def test_what_llguidance_refuses_is_said_as_it_says_it(grammars: Grammars) -> None:
    async def compiling(schema: dict[str, Any]) -> None:
        await grammars.compile(grammars.json(schema), None, "")

    with pytest.raises(SchemaError, match="disjoint"):
        asyncio.run(compiling({"patternProperties": {"^a": {}, "^ab": {}}}))
    with pytest.raises(SchemaError, match="look-around"):
        asyncio.run(compiling({"type": "string", "pattern": "(?=a)"}))


def test_slow_grammars_wait_for_each_other_and_others_do_not(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    # none of them ends by itself meanwhile
    monkeypatch.setattr(grammar_queue, "SLOW_SECONDS", 60)
    trials = trials_of(grammars)
    slow = [trials.submit(wicked(number), "one") for number in range(8)]
    good = trials.submit(grammars.json(ORDINARY), "two")
    assert outcome(good).wrong is None
    assert not all(trial.result.done() for trial in slow)
    # of those that are known to be slow only a few may wait, the others are turned away
    until(lambda: sum(trial.slow for trial in slow) == 8)
    turned_away = [t for t in slow if t.result.done() and t.result.exception() is not None]
    assert len(turned_away) == 8 - SLOW_QUEUE_PER_KEY - SLOW_PLACES
    assert all(isinstance(t.result.exception(), TrialsBusyError) for t in turned_away)
    assert outcome(trials.submit(grammars.json({"type": "integer"}), "one")).wrong is None
    for trial in slow:
        trials.cancel(trial)
    until(lambda: not trials._running)


def test_a_key_that_has_used_up_its_time_is_turned_away_and_gets_it_back(graph: Path) -> None:
    now = 0.0
    trials = Trials(graph / "tokenizer.json", 1024, {2}, clock=lambda: now)
    trials._accounts.add("greedy", ALLOWANCE_SECONDS + 1)
    with pytest.raises(TrialsBusyError):
        outcome(trials.submit(wicked(1), "greedy"))
    # what is quick is not counted
    assert outcome(trials.submit(grammar_text({"type": "integer"}), "greedy")).wrong is None
    now = 100.0
    assert "longer" in (outcome(trials.submit(wicked(1), "greedy")).wrong or "")
    assert trials._accounts.used("greedy") > 0
    trials.close()


def grammar_text(schema: dict[str, Any]) -> str:
    return str(LLMatcher.grammar_from_json_schema(json.dumps(schema)))


def test_a_trial_ends_with_the_one_who_asked(grammars: Grammars) -> None:
    trials = trials_of(grammars)

    async def leave() -> None:
        task = asyncio.create_task(grammars.compile(wicked(), None, "one"))
        while not trials._running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    until(lambda: not trials._running)
    # it was ended, and so has no outcome
    assert not trials._known


def test_a_process_that_is_killed_is_started_again(grammars: Grammars) -> None:
    trials = trials_of(grammars)
    trial: Trial = trials.submit(wicked(), "one")
    until(lambda: trials._process is not None)
    assert trials._process is not None
    trials._process.kill()
    with pytest.raises(TrialsEndedError):
        outcome(trial)
    assert outcome(trials.submit(grammar_text({"type": "integer"}), "one")).wrong is None


def test_a_slow_grammar_counts_each_time_that_it_is_compiled(grammars: Grammars) -> None:
    trials = trials_of(grammars)
    grammar = grammar_text({"type": "integer"})
    assert not outcome(trials.submit(grammar, "one")).slow
    # as if it had taken so long
    (digest,) = trials._known
    trials._known[digest] = Outcome(None, 0.8)
    for _time in range(13):
        assert outcome(trials.submit(grammar, "one")).slow
    with pytest.raises(TrialsBusyError):
        trials.submit(grammar, "one")
    assert outcome(trials.submit(grammar, "two")).slow


def test_answers_of_one_schema_do_not_use_up_each_others_states(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a compiled grammar share what llguidance finds on the way, and its limit."""
    monkeypatch.setattr(constrained, "compiled", few_states)
    grammar = grammars.json({"type": "string", "pattern": "^(.*a.{60}b|c.*){20}$"})
    for seed in range(4):
        made = asyncio.run(grammars.compile(grammar, None, ""))
        constraint = made.constraint()
        for step in range(30):
            constraint.begin(lambda: None)
            assert constraint.wait(PATIENCE)
            allowed = constraint.allowed()
            assert allowed is not None
            places = allowed.nonzero()[0]
            constraint.accept(int(places[(seed * 7 + step * 5) % len(places)]))


def few_states(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    return LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(max_lexer_states=3000))


def test_masks_that_take_too_long_end_their_answer(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = asyncio.run(grammars.compile(grammars.json(ORDINARY), None, ""))
    constraint = grammar.constraint()
    constraint.begin(lambda: None)
    assert constraint.wait(PATIENCE)
    allowed = constraint.allowed()
    assert allowed is not None
    constraint.accept(int(allowed.argmax()))
    monkeypatch.setattr(constrained, "MASK_SECONDS", 0)
    monkeypatch.setattr(constrained, "MASK_SECONDS_PER_TOKEN", 0)
    constraint.begin(lambda: None)
    assert constraint.wait(PATIENCE)
    assert not constraint.complete
    with pytest.raises(SamplingError, match="masks take longer"):
        constraint.allowed()


# --- through the API -----------------------------------------------------------------------------


@pytest.fixture
def service(graph: Path) -> Service:
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=1, slots=4), Limits())
    release = Release(MODEL, "1", "0" * 64, graph)
    service = Service(release, scheduler, ChatTokenizer(graph))
    scheduler.start()
    return service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serve_app(create_app(service)) as url, http_client(url) as client:
        yield client


def formatted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize("name", ["repetitions of repetitions", "a large divisor", "depth"])
def test_the_parameter_with_the_schema_is_named(client: httpx.Client, name: str) -> None:
    reply = client.post(CHAT, json={**ASK, "response_format": formatted(COSTLY[name])})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "response_format")
    assert error["code"] == "invalid_json_schema"
    assert error["type"] == "invalid_request_error"


def test_an_ordinary_schema_is_answered_while_slow_ones_are_tried(client: httpx.Client) -> None:
    """Three patterns at once are not too many, and yet cannot be compiled in time or at all."""
    slow = {"type": "string", "allOf": [{"pattern": f"(.*{c}.{{400}})*x.*"} for c in "abcd"]}

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=PATIENCE) as http:

            async def post(schema: dict[str, Any]) -> int:
                body = {**ASK, "max_tokens": 4, "response_format": formatted(schema)}
                return (await http.post(CHAT, json=body)).status_code

            hostile = [{**slow, "title": str(number)} for number in range(8)]
            return await asyncio.gather(*map(post, [*hostile, ORDINARY]))

    *refused, answered = asyncio.run(ask())
    assert answered == 200
    assert set(refused) <= {400, 429}


def test_a_trial_ends_with_the_connection(
    client: httpx.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.grammars, "json", lambda _schema: wicked())
    trials = trials_of(service.grammars)
    body = {**ASK, "response_format": formatted(ORDINARY)}
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=body, timeout=httpx.Timeout(PATIENCE, read=0.05))
    until(lambda: not trials._running and not trials._quick.waiting and not trials._slow.waiting)
    assert not trials._known
    assert service.scheduler.state().busy == 0


def test_the_process_ends_with_the_service(client: httpx.Client, service: Service) -> None:
    trials = trials_of(service.grammars)
    body = {**ASK, "max_tokens": 2, "response_format": formatted(ORDINARY)}
    assert client.post(CHAT, json=body).status_code == 200
    process = trials._process
    assert process is not None
    # which systemd sends to all processes of the unit, while the service still answers
    process.terminate()
    assert client.post(CHAT, json={**body, "seed": 1}).status_code == 200
    assert process.poll() is None
    service.grammars.close()
    assert process.poll() == 0
