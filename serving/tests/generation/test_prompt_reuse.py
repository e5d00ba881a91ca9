"""What a slot holds of an earlier prompt is not read again, and changes no answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from counting_engine import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from support import trained

from deepseek_serving.generation.sampling import Sampling
from deepseek_serving.generation.scheduler import Limits, Scheduler, Ticket
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer


class RememberingEngine:
    """A cache of tokens; the next one depends on all that the cache holds of its sequence."""

    def __init__(self, slots: int, max_len: int) -> None:
        self.slots = slots
        self.max_len = max_len
        self.read = 0
        self.reset()

    def reset(self) -> None:
        self.cache = np.full((self.slots, self.max_len), -1, dtype=np.int64)

    def clear(self, slot: int) -> None:
        self.cache[slot] = -1

    def _next(self, slot: int, length: int) -> int:
        held = self.cache[slot, :length]
        assert (held >= 0).all(), "read before it was written"
        return int(np.dot(held, np.arange(1, length + 1)) % 97)

    def _candidates(self, tokens: list[int]) -> Candidates:
        best = np.array(tokens, dtype=np.int64)[:, None]
        return Candidates(np.zeros_like(best, dtype=np.float32), best)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self.read += len(tokens)
        self.cache[slot, start : start + len(tokens)] = tokens
        return self._candidates([self._next(slot, start + len(tokens))])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        best = []
        for slot, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.cache[slot, length] = token
            whole = (self.cache[slot, : length + 1] >= 0).all()
            best.append(self._next(slot, length + 1) if whole else 0)
        return self._candidates(best)

    def logits(self) -> npt.NDArray[np.float32]:
        raise AssertionError("nobody asked for the logits")


def alone(prompt: Sequence[int], count: int, max_len: int) -> list[int]:
    """What the engine answers to a request that has it to itself."""
    engine = RememberingEngine(1, max_len)
    tokens = [int(engine.prefill(0, prompt, 0).tokens[0, 0])]
    while len(tokens) < count and len(prompt) + len(tokens) < max_len:
        answer = engine.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])
        tokens.append(int(answer.tokens[0, 0]))
    return tokens


# prompts that share beginnings, of lengths on both sides of the chunk's
prompts = st.builds(
    lambda head, count, tail: [head] * count + tail,
    st.integers(0, 1),
    st.integers(1, 14),
    st.lists(st.integers(2, 3), max_size=4),
)
asked = st.tuples(prompts, st.integers(1, 6), st.sampled_from(["one", "two"]), st.booleans())


@settings(max_examples=60)
@given(
    requests=st.lists(asked, min_size=1, max_size=12),
    slots=st.integers(1, 3),
    chunk=st.integers(1, 5),
    step_tokens=st.none() | st.integers(1, 12),
    idle=st.sampled_from([0.0, 60.0]),
)
def test_reused_prompts_never_change_an_answer(
    requests: list[tuple[list[int], int, str, bool]],
    slots: int,
    chunk: int,
    step_tokens: int | None,
    idle: float,
) -> None:
    """Whatever comes, in whatever order, together or one after the other, or is cancelled."""
    engine = RememberingEngine(slots, 24)
    limits = Limits(20, prefill_chunk=chunk, step_tokens=step_tokens, idle_seconds=idle)
    scheduler = Scheduler(engine, limits)
    scheduler.start()
    clients = []
    for number, (prompt, count, key, together) in enumerate(requests):
        client = Client(scheduler, prompt, count, key=key)
        if number % 4 == 3:
            scheduler.cancel(client.ticket)
        elif not together:
            client.wait()
        clients.append(client)
    for number, (client, (prompt, count, _key, together)) in enumerate(
        zip(clients, requests, strict=True)
    ):
        expected = alone(prompt, count, 24)
        if number % 4 == 3:
            client.wait()
            assert client.tokens == expected[: len(client.tokens)]
        else:
            assert not together or client.wait() == "length"
            assert client.tokens == expected
    state = scheduler.state()
    assert state.prompts <= len(requests)
    scheduler.stop()


def test_a_shared_beginning_is_read_once() -> None:
    remembering = RememberingEngine(2, 100)
    scheduler = Scheduler(remembering, Limits(prefill_chunk=4))
    scheduler.start()

    def ask(tail: int, key: str) -> Ticket:
        client = Client(scheduler, [*range(10), tail], 3, key=key)
        assert client.wait() == "length"
        assert client.tokens == alone([*range(10), tail], 3, 100)
        return client.ticket

    assert ask(20, "one").reused == 0
    # whole chunks of the same tokens
    assert ask(30, "one").reused == 8
    # another key must not learn from the time it takes what the first one asks
    assert ask(30, "two").reused == 0
    assert remembering.read == 11 + 3 + 11
    state = scheduler.state()
    assert (state.prompts, state.prompts_reused) == (3, 1)
    assert (state.prompt_tokens, state.prompt_tokens_reused) == (33, 8)
    scheduler.stop()


def sampled(
    graph: Path, prompts: Sequence[Sequence[int]], slots: int, limits: Limits, together: bool
) -> list[list[int]]:
    """Answers of the real engine, each with a seed of its own."""
    scheduler = Scheduler(OnnxRuntimeEngine(graph, threads=2, slots=slots), limits)
    scheduler.start()
    clients = []
    for number, prompt in enumerate(prompts):
        sampling = Sampling(temperature=1.5, top_p=0.95, seed=number)
        clients.append(Client(scheduler, prompt, 40, end=2, sampling=sampling))
        if not together:
            clients[-1].wait()
    for client in clients:
        if together:
            client.wait()
    scheduler.stop()
    return [client.tokens for client in clients]


def test_a_seed_gives_the_same_answer_in_any_company(graph: Path) -> None:
    """Alone; with others in the batch; with a beginning that the slot holds already."""
    tokenizer = ChatTokenizer(graph)
    system = {"role": "system", "content": "You answer questions about this project, briefly."}
    prompts = [
        tokenizer.prompt([system, {"role": "user", "content": question}])
        for question, _answer in trained()[::40]
    ]
    limits = Limits(prefill_chunk=16)
    alone = Limits(prefill_chunk=16, idle_seconds=0)
    one_by_one = sampled(graph, prompts, 1, alone, together=False)
    # one after the other, each begins with what the slot holds of the one before
    assert sampled(graph, prompts, 1, limits, together=False) == one_by_one
    for slots, step_tokens in ((3, None), (4, 40)):
        company = Limits(prefill_chunk=16, step_tokens=step_tokens)
        assert sampled(graph, prompts, slots, company, together=True) == one_by_one
