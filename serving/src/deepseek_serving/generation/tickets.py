"""Requests on their way through the scheduler.

What is asked, which events their listeners get, and how many may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.generation.sampling import Constraint, Sampler, Sampling
from deepseek_serving.settings import DEFAULT_QUEUE

# refused: what was asked for cannot be; failed: the engine could not answer this one;
# returned: not begun, so that another host may take it; error: the engine is of no use any more
FinishReason = Literal[
    "stop", "length", "cancelled", "timeout", "refused", "failed", "returned", "error"
]


class QueueFullError(Exception):
    """As many requests wait as may wait, in all or of one key."""

    def __init__(self, *, of_key: bool = False) -> None:
        super().__init__("too many requests are waiting")
        self.of_key = of_key


class ClosedError(Exception):
    """The scheduler takes no more requests."""


@dataclass(frozen=True)
class Limits:
    """How much waits, and how much a step does; None: as much as the queue, or one chunk."""

    queue: int = DEFAULT_QUEUE
    queue_per_key: int | None = None
    prefill_chunk: int = 128
    step_tokens: int | None = None
    # how long an idle engine keeps prompts that may come again
    idle_seconds: float = 60
    # a step takes milliseconds; an engine that is in one for so long hangs
    stuck_seconds: float = 120


@dataclass(frozen=True)
class Request:
    """What to generate: at most `max_tokens` after `prompt`, up to one of `end_tokens`.

    With `score`, all tokens of the prompt but the first are given their log probabilities, and
    those of so many best ones.

    Requests of one `key` wait in one line, and may reuse what the cache holds of each other; those
    of different keys must not, since the time to the first token would tell what others ask.
    """

    prompt: Sequence[int]
    max_tokens: int
    end_tokens: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    key: str = ""
    timeout: float | None = None
    constraint: Constraint | None = None
    score: int | None = None
    # nothing of it has been answered yet, so that another host may take it as long as it waits
    may_return: bool = False

    def check(self, max_len: int) -> None:
        """Raises ValueError for what no engine with sequences up to `max_len` answers."""
        if not 0 < len(self.prompt) < max_len:
            raise ValueError(
                f"a prompt of {len(self.prompt)} tokens does not fit: 1 to {max_len - 1} do"
            )
        if self.max_tokens < 0:
            raise ValueError("max_tokens must be at least 0")

    @property
    def head(self) -> Sequence[int]:
        """What is read in chunks; the rest of a prompt that is scored is decoded."""
        return self.prompt if self.score is None else self.prompt[:1]

    @property
    def scored(self) -> int:
        """How many tokens of the prompt are to be scored."""
        return len(self.prompt) - len(self.head)


@dataclass(frozen=True)
class Event:
    """A token, the reason why no more will come, or both; an end token has no text."""

    choice: Choice | None = None
    finish: FinishReason | None = None
    is_end: bool = False
    # of the prompt, with the first event after it
    scores: PromptScores | None = None

    @property
    def token(self) -> int | None:
        return None if self.choice is None else self.choice.token


Listener = Callable[[Event], None]


@dataclass(eq=False)
class Ticket:
    """A submitted request; its state belongs to the scheduler's thread."""

    request: Request
    listener: Listener
    sampler: Sampler
    submitted: float
    started: float | None = None
    read: int = 0
    reused: int = 0
    # tokens of the prompt that are scored, and of the answer
    scored: int = 0
    chosen: int = 0
    last_token: int = 0
    cancelled: bool = False
    ended: bool = False
    # it is not known yet what may come next
    late: bool = False
    # it has all the tokens that it may have
    full: bool = False
    # those of the same request
    together: Sequence[Ticket] = ()
    _scores: PromptScores | None = None

    def __post_init__(self) -> None:
        # asked for in every step
        self._head, self._to_score = len(self.request.head), self.request.scored
        if self.request.score is not None:
            self._scores = PromptScores()

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return self._head - self.read

    @property
    def scored_next(self) -> int | None:
        """The token of the prompt that is to be scored next, if one is."""
        if self.scored >= self._to_score:
            return None
        return self.request.prompt[self.scored + 1]

    def score(self, choice: Choice) -> None:
        """Take a token of the prompt as if it had been chosen."""
        assert self._scores is not None
        self._scores.add(choice)
        self.last_token = choice.token
        self.scored += 1

    def take_scores(self) -> PromptScores | None:
        """All of them, once."""
        scores, self._scores = self._scores, None
        return scores

    @property
    def length(self) -> int:
        """Tokens in the slot's cache; the last decoded one is written by the next step."""
        return self.read + max(0, self.scored + self.chosen - 1)

    @property
    def may_return(self) -> bool:
        """Whether another host can take all that was asked for together with it."""
        return all(t.request.may_return and t.started is None for t in self.together)

    def finish(self, token: int, max_len: int) -> FinishReason | None:
        """Why its last token is the last, if it is."""
        if token in self.request.end_tokens:
            return "stop"
        full = len(self.request.prompt) + self.chosen >= max_len
        return "length" if full or self.chosen >= self.request.max_tokens else None

    def unwanted(self, now: float) -> FinishReason | None:
        if self.cancelled:
            return "cancelled"
        timeout = self.request.timeout
        return "timeout" if timeout is not None and now >= self.submitted + timeout else None


@dataclass
class Slot:
    """A sequence's place in the batch, and whole chunks of the prompt that was there last."""

    ticket: Ticket | None = None
    key: str = ""
    held: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Where a step may write without spoiling what the cache holds."""
        return self.ticket.length if self.ticket else len(self.held)


@dataclass(frozen=True)
class State:
    """How busy the scheduler is, and what it has done so far."""

    waiting: int
    busy: int
    slots: int
    cache_tokens: int
    prompts: int
    prompts_reused: int
    prompt_tokens: int
    prompt_tokens_reused: int
    decode_steps: int
    decoded_tokens: int
    failed: int


@dataclass
class Counts:
    """What the scheduler has done since it started."""

    prompts: int = 0
    prompts_reused: int = 0
    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    decode_steps: int = 0
    decoded_tokens: int = 0
    failed: int = 0


def common_chunks(first: Sequence[int], second: Sequence[int], size: int) -> int:
    """Tokens in the whole chunks with which both begin."""
    count = 0
    while count + size <= min(len(first), len(second)):
        end = count + size
        if list(first[count:end]) != list(second[count:end]):
            break
        count = end
    return count


def best_slot(slots: Sequence[Slot], request: Request, chunk: int) -> tuple[int, int]:
    """The free slot that holds most of the prompt, and how much; the first one if none does."""
    # the last token must be read, since what follows it is what was asked for
    prompt = request.head[: len(request.head) - 1]
    known = {
        index: common_chunks(slot.held, prompt, chunk)
        for index, slot in enumerate(slots)
        if slot.held and slot.ticket is None and slot.key == request.key
    }
    best = max(known, key=lambda index: known[index], default=0)
    if known.get(best, 0):
        return best, known[best]
    return next(index for index, slot in enumerate(slots) if slot.ticket is None), 0
