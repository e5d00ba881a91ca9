"""A request that the engine or a library fails ends by itself; the service goes on or says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from counting_engine import GREEDY, Client, CountingEngine
from support import trained
from waiting import until

from deepseek_serving.errors import LibraryError, library_error
from deepseek_serving.generation.distribution import NotANumberError
from deepseek_serving.generation.sampling import Sampler, Sampling
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.runtime.question import Question
from deepseek_serving.text.tokenizer import ChatTokenizer, TextError


class Panic(BaseException):
    """As pyo3_runtime.PanicException, which derives from BaseException too."""


class Trouble(OnnxRuntimeEngine):
    """The real engine, with something done before and after its steps."""

    before: Callable[[str], None] | None = None
    after: Callable[[str, Candidates], None] | None = None

    def _around(self, kind: str, step: Callable[[], Candidates]) -> Candidates:
        if self.before is not None:
            self.before(kind)
        found = step()
        if self.after is not None:
            self.after(kind, found)
        return found

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        real = super().prefill
        return self._around("prefill", lambda: real(slot, tokens, start))

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        real = super().decode
        return self._around("decode", lambda: real(tokens, lengths))


@pytest.fixture
def engine(graph: Path) -> Trouble:
    return Trouble(graph, threads=1, slots=2)


@pytest.fixture
def scheduler(engine: Trouble) -> Iterator[Scheduler]:
    scheduler = Scheduler(engine, Limits(), question=Question.learn(engine, 1024))
    scheduler.start()
    yield scheduler
    scheduler.stop()


@pytest.fixture
def prompts(graph: Path) -> list[list[int]]:
    tokenizer = ChatTokenizer(graph)
    return [
        tokenizer.prompt([{"role": "user", "content": question}])
        for question, _answer in trained()[:40:20]
    ]


def answers(scheduler: Scheduler, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each by itself."""
    found = []
    for prompt in prompts:
        client = Client(scheduler, prompt, 40, end=2, sampling=GREEDY)
        assert client.wait() in ("stop", "length")
        found.append(client.tokens)
    return found


def raising(error: BaseException, kind: str, when: int = 1) -> Callable[[str], None]:
    """Raise once, at the step of that kind with that number."""
    seen = 0

    def raise_once(now: str) -> None:
        nonlocal seen
        seen += now == kind
        if now == kind and seen == when:
            raise error

    return raise_once


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), Panic("it panicked"), MemoryError()])
def test_a_prefill_that_fails_ends_its_request_alone(
    engine: Trouble, scheduler: Scheduler, prompts: list[list[int]], error: BaseException
) -> None:
    expected = answers(scheduler, prompts)
    engine.before = raising(error, "prefill", 2)
    first = Client(scheduler, prompts[0], 40, end=2)
    second = Client(scheduler, prompts[1], 40, end=2)
    assert min(first.wait(), second.wait()) == "failed"
    assert first.tokens in ([], expected[0])
    assert second.tokens in ([], expected[1])
    assert first.tokens + second.tokens
    assert scheduler.healthy
    assert scheduler.state().failed == 1
    assert answers(scheduler, prompts) == expected


@pytest.mark.parametrize("error", [RuntimeError("lost"), Panic()])
def test_a_decode_that_fails_ends_those_that_took_part(
    engine: Trouble, scheduler: Scheduler, prompts: list[list[int]], error: BaseException
) -> None:
    expected = answers(scheduler, prompts)
    engine.before = raising(error, "decode", 3)
    client = Client(scheduler, prompts[0], 40, end=2)
    assert client.wait() == "failed"
    assert client.tokens == expected[0][: len(client.tokens)]
    assert answers(scheduler, prompts) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_row_of_no_numbers_ends_its_request_alone(
    engine: Trouble,
    scheduler: Scheduler,
    prompts: list[list[int]],
    value: float,
    logprobs: int | None,
) -> None:
    """What a sequence's cache holds is spoilt, as a fault of a GPU's memory would."""
    expected = answers(scheduler, prompts)
    sampling = Sampling(temperature=0, logprobs=logprobs)
    victim: list[Client] = []

    def spoil(kind: str) -> None:
        ticket = victim[0].ticket if victim else None
        if kind == "decode" and ticket and ticket.chosen == 3 and not ticket.ended:
            slot = next(i for i, s in enumerate(scheduler._batch.slots) if s.ticket is ticket)
            for cache in engine.caches.values():
                cache[slot, :, :4] = value

    engine.before = spoil
    victim.append(Client(scheduler, prompts[0], 40, end=2, sampling=sampling))
    other = Client(scheduler, prompts[1], 40, end=2)
    assert victim[0].wait() == "failed"
    assert other.wait() in ("stop", "length")
    assert other.tokens == expected[1]
    # the slot is as good as new
    assert answers(scheduler, [*prompts, *prompts]) == expected * 2
    assert scheduler.state().failed == 1


@pytest.mark.parametrize("row", [[np.nan] * 3, [5.0, np.nan, 1.0], [np.inf, 2.0, 1.0], [-np.inf]])
def test_what_is_no_number_is_never_chosen_from(row: list[float]) -> None:
    values = np.array(row, dtype=np.float32)
    tokens = np.arange(len(row), dtype=np.int64)
    for sampling in (Sampling(temperature=0), Sampling(), Sampling(logprobs=2)):
        with pytest.raises(NotANumberError):
            Sampler(sampling, ()).choose(values, tokens, lambda: values)
    good = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    with pytest.raises(NotANumberError):
        Sampler(Sampling(logit_bias={0: 1.0}), ()).choose(good, np.arange(3), lambda: values)


def test_an_engine_that_answers_otherwise_afterwards_is_given_up(
    engine: Trouble, scheduler: Scheduler, prompts: list[list[int]]
) -> None:
    def spoil(kind: str, found: Candidates) -> None:
        found.tokens[:, 0] = 7
        found.values[:, 0] = 99

    def fail(kind: str) -> None:
        engine.before, engine.after = None, spoil
        raise RuntimeError("lost")

    engine.before = fail
    clients = [Client(scheduler, prompt, 40, end=2) for prompt in prompts]
    assert {client.wait() for client in clients} == {"failed", "error"}
    until(lambda: scheduler.failed)
    assert not scheduler.healthy


def test_the_question_leaves_what_other_slots_hold(graph: Path, prompts: list[list[int]]) -> None:
    engine = Trouble(graph, threads=1, slots=2)
    question = Question.learn(engine, 1024)
    engine.prefill(0, prompts[0], 0)
    held = {name: cache[0, :, : len(prompts[0])].copy() for name, cache in engine.caches.items()}
    assert question.is_answered(engine, 1, [(5, len(prompts[0]))])
    for name, cache in engine.caches.items():
        assert np.array_equal(cache[0, :, : len(prompts[0])], held[name])
    assert question.is_answered(engine, 0, [])


class Refusing:
    """A constraint whose library panics at that token."""

    complete = False

    def __init__(self, at: int) -> None:
        self._left = at

    def begin(self, wake: Callable[[], None]) -> None:
        wake()

    def wait(self, seconds: float) -> bool:
        return True

    def allowed(self) -> npt.NDArray[np.bool_] | None:
        if self._left == 0:
            raise Panic
        return None

    def accept(self, token: int) -> None:
        self._left -= 1


def test_a_panic_while_sampling_ends_its_request_alone(
    scheduler: Scheduler, prompts: list[list[int]]
) -> None:
    expected = answers(scheduler, prompts)
    panics = Client(scheduler, prompts[0], 40, end=2, constraint=Refusing(3))
    other = Client(scheduler, prompts[1], 40, end=2)
    assert panics.wait() == "failed"
    assert panics.tokens == expected[0][:3]
    assert other.wait() in ("stop", "length")
    assert other.tokens == expected[1]


def test_a_panic_becomes_an_exception_and_an_interrupt_does_not() -> None:
    assert isinstance(library_error("x", Panic()), LibraryError)
    error = ValueError()
    assert library_error("x", error) is error
    with pytest.raises(KeyboardInterrupt):
        library_error("x", KeyboardInterrupt())


# --- what may come next is late ------------------------------------------------------------------


class Slow:
    """A constraint that allows all, but says so only when it is let."""

    complete = False

    def __init__(self, tokens: int) -> None:
        """After so many tokens it is late."""
        self.left = tokens
        self.known = True
        self.wake: Callable[[], None] = lambda: None

    def begin(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.known = self.left > 0

    def wait(self, seconds: float) -> bool:
        return self.known

    def allowed(self) -> None:
        assert self.known
        return

    def accept(self, token: int) -> None:
        self.left -= 1

    def let(self) -> None:
        self.left, self.known = 1000, True
        self.wake()


@pytest.mark.parametrize("from_the_beginning", [True, False])
def test_a_sequence_that_is_late_waits_alone(from_the_beginning: bool) -> None:
    engine = CountingEngine(slots=2)
    scheduler = Scheduler(engine, Limits(prefill_chunk=4))
    scheduler.start()
    slow = Slow(0 if from_the_beginning else 4)
    waiting = Client(scheduler, [100, 101, 102, 103, 104], 400, constraint=slow)
    other = Client(scheduler, [1], 50)
    assert other.wait() == "length"
    assert other.tokens == list(range(2, 52))
    seen = waiting.events.qsize()
    assert seen < 400
    # nobody is there to be computed for
    until(lambda: scheduler.state().busy == 1)
    steps = len(engine.calls)
    third = Client(scheduler, [500], 5)
    assert third.wait() == "length"
    assert len(engine.calls) - steps <= 2 * 5 + 2
    slow.let()
    assert waiting.wait() == "length"
    assert waiting.tokens == list(range(105, 505))
    scheduler.stop()


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_sequence_that_is_late_can_be_ended(how: str) -> None:
    scheduler = Scheduler(CountingEngine(slots=1), Limits())
    scheduler.start()
    slow = Slow(0)
    timeout = 0.1 if how == "timeout" else None
    client = Client(scheduler, [1], 9, constraint=slow, timeout=timeout)
    until(lambda: scheduler.state().busy == 1)
    if how == "cancel":
        scheduler.cancel(client.ticket)
    assert client.wait() == {"cancel": "cancelled"}.get(how, how)
    assert Client(scheduler, [1], 2).wait() == "length"
    scheduler.stop()


def test_one_that_reaches_the_engine_ends_there(
    engine: Trouble, scheduler: Scheduler, prompts: list[list[int]]
) -> None:
    expected = answers(scheduler, prompts)
    assert Client(scheduler, [5, 5000], 4).wait() == "failed"
    assert Client(scheduler, [-5000, 5], 4).wait() == "failed"
    assert answers(scheduler, prompts) == expected


# --- libraries of the text -----------------------------------------------------------------------


def test_a_panic_of_the_tokenizer_ends_its_request_alone(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panicking:
        def __getattr__(self, _name: str) -> Any:
            raise Panic

    tokenizer = ChatTokenizer(graph)
    stream = tokenizer.stream()
    for name in ("_tokenizer", "_sliced"):
        monkeypatch.setattr(tokenizer, name, Panicking())
    with pytest.raises(TextError, match="tokenizers failed: Panic"):
        tokenizer.encode("x")
    with pytest.raises(TextError, match="tokenizers failed: Panic"):
        tokenizer.decode([1])
    monkeypatch.setattr(stream, "_decoder", Panicking())
    with pytest.raises(LibraryError):
        stream.push(5)


@pytest.mark.parametrize(
    "asked",
    [
        {
            "truncation": {
                "direction": "Right",
                "max_length": 5,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        },
        {
            "truncation": {
                "direction": "Left",
                "max_length": 5,
                "strategy": "OnlyFirst",
                "stride": 0,
            }
        },
        {
            "padding": {
                "strategy": {"Fixed": 512},
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            }
        },
    ],
)
def test_a_tokenizer_that_cuts_or_pads_does_not(
    graph: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """Prompts lost the header of the assistant's turn, silently."""
    folder = tmp_path / "graph"
    shutil.copytree(graph, folder)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **asked}))
    messages = [{"role": "user", "content": "What is a release, and what is it for?"}]
    assert ChatTokenizer(folder).prompt(messages) == ChatTokenizer(graph).prompt(messages)
    assert ChatTokenizer(folder).encode("a b c d e f g h") == ChatTokenizer(graph).encode(
        "a b c d e f g h"
    )
