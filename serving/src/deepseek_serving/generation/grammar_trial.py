"""Compiles grammars where that can be ended: a process of its own, with a child for each of them.

llguidance's compiler stops for nobody, and what it has compiled cannot be handed to another
process. So a grammar is tried here first, with a bound for processor time and memory: compiled,
and followed along a few answers. Only one that keeps within the bounds is compiled in the service,
which then is known to take no longer.

The process reads requests from its standard input, one JSON object in a line, and answers on its
standard output. It holds the tokenizer; a child that it forks has it without loading it, and is
killed when its time is over, when the service asks for that, or when the service ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from deepseek_serving.generation.grammar_vocabulary import open_vocabulary

# beyond what the process has with its tokenizer
MEMORY_BYTES = 512 * 2**20
# answers that are followed, and tokens of each
ANSWERS, STEPS = 3, 24
# times the processor time that a trial may take: a child that only waits is ended as well
PATIENCE = 20
# a single mask that takes longer would be felt by others whatever the sum is
MASK_SECONDS = 0.1

TOO_LONG = "it takes longer to compile than a request may take"
TOO_LARGE = "it takes more memory to compile than a request may take"


def limits() -> LLParserLimits:
    """Limits that llguidance has itself: of what it builds, and of each step.

    Its longer messages repeat the schema, which is the client's.
    """
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    return LLMatcher(tokenizer, grammar, log_level=0, limits=limits())


def complaint(matcher: LLMatcher) -> str | None:
    """What is wrong with a grammar, in one line."""
    if not matcher.is_error():
        return None
    said = " ".join(str(matcher.get_error()).split())
    return said[:500] or f"it is too complex ({matcher.stop_reason()})"


def _allowed(bits: bytes) -> list[int]:
    """A few of the tokens that may follow, from different places of the vocabulary."""
    places = [place for place, byte in enumerate(bits) if byte]
    chosen = [places[len(places) * part // 8] for part in range(8)] if places else []
    return [place * 8 + (bits[place] & -bits[place]).bit_length() - 1 for place in chosen]


def try_grammar(tokenizer: LLTokenizer, grammar: str) -> tuple[str | None, float]:
    """Compile a grammar and follow some answers.

    What is wrong with it, or None, and the processor seconds that compiling took.
    """
    began = time.process_time()
    template = compiled(tokenizer, grammar)
    seconds = time.process_time() - began
    wrong = complaint(template)
    for answer in range(ANSWERS if wrong is None else 0):
        matcher = template.deep_copy()
        for step in range(STEPS):
            began = time.process_time()
            bits = matcher.compute_bitmask()
            wrong = complaint(matcher)
            if wrong is None and time.process_time() - began > MASK_SECONDS:
                wrong = TOO_LONG
            tokens = _allowed(bits)
            if wrong is not None or matcher.is_stopped() or not tokens:
                break
            # another way each time, the same at each trial
            matcher.consume_token(tokens[(answer * 5 + step * 3) % len(tokens)])
        if wrong is not None:
            break
    return wrong, seconds


@dataclass
class _Child:
    """A grammar in trial."""

    number: int
    pid: int
    output: int
    until: float


def _in_child(tokenizer: LLTokenizer, order: dict[str, Any], output: int) -> None:
    """Bounded by the kernel: both signals' default is to end the process."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        # a panic writes the grammar to standard error
        os.dup2(quiet, stream)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = used * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.setitimer(signal.ITIMER_PROF, order["seconds"])
    seconds = 0.0
    try:
        wrong, seconds = try_grammar(tokenizer, order["grammar"])
    except MemoryError:
        wrong = TOO_LARGE
    except BaseException as error:
        wrong = f"the compiler gave up ({type(error).__name__})"
    answer = {"error": wrong, "compile": seconds}
    # whole: it is less than a pipe takes at once
    os.write(output, json.dumps(answer).encode("ascii"))


class _Trials:
    """The loop of the process."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._children: dict[int, _Child] = {}
        self._read = b""

    def run(self) -> None:
        while True:
            for key, _events in self._selector.select(self._patience()):
                if key.fd != 0:
                    self._end(key.data)
                elif not self._orders():
                    for child in list(self._children.values()):
                        os.kill(child.pid, signal.SIGKILL)
                    return
            now = time.monotonic()
            for child in list(self._children.values()):
                if now >= child.until:
                    os.kill(child.pid, signal.SIGKILL)
                    child.until = now + 1

    def _patience(self) -> float | None:
        until = min((child.until for child in self._children.values()), default=None)
        return None if until is None else max(0.0, until - time.monotonic())

    def _say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode("ascii") + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def _orders(self) -> bool:
        """Whether the service is still there."""
        some = os.read(0, 2**16)
        *lines, self._read = (self._read + some).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "cancel" not in order:
                self._begin(order)
            elif (child := self._children.get(order["cancel"])) is not None:
                os.kill(child.pid, signal.SIGKILL)
        return bool(some)

    def _begin(self, order: dict[str, Any]) -> None:
        output, written = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _in_child(self._tokenizer, order, written)
            finally:
                os._exit(0)
        os.close(written)
        until = time.monotonic() + PATIENCE * order["seconds"]
        child = _Child(order["number"], pid, output, until)
        self._children[child.number] = child
        self._selector.register(output, selectors.EVENT_READ, child)

    def _end(self, child: _Child) -> None:
        data = os.read(child.output, 2**16)
        self._selector.unregister(child.output)
        os.close(child.output)
        _pid, status, used = os.wait4(child.pid, 0)
        del self._children[child.number]
        answer = {"number": child.number, "seconds": used.ru_utime + used.ru_stime}
        if data:
            self._say({**answer, **json.loads(data)})
            return
        ended = os.waitstatus_to_exitcode(status)
        late = ended in (-signal.SIGPROF, -signal.SIGKILL)
        self._say(
            {**answer, "error": TOO_LONG if late else TOO_LARGE, "late": late, "compile": 0.0}
        )


def main() -> None:
    path, vocabulary, *end_tokens = sys.argv[1:]
    # those who are being answered come first, and yet who asks with a schema is not to starve
    with contextlib.suppress(OSError):
        os.nice(10)
    # systemd sends them to all processes of a unit; the service may still answer what it has begun
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    opened = open_vocabulary(Path(path), int(vocabulary), [int(end) for end in end_tokens])
    _Trials(opened.tokenizer).run()


if __name__ == "__main__":
    main()
