"""What a checkpoint's generation_config.json asks for, and the tokens that end its answers.

The values are those that vLLM takes from the file as defaults of requests. Null is as if a value
was not there; 0 is a value. What would choose tokens in a way that the service does not have is
named, so that a release is not published unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.documents import read_object

GENERATION_FILE, CONFIG_FILE = "generation_config.json", "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

# what would change answers if it was heeded, and the values at which it asks for nothing
IGNORED: Mapping[str, tuple[object, ...]] = {
    "assistant_early_exit": (),
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}


@dataclass(frozen=True)
class Defaults:
    """What holds for requests that do not say otherwise.

    `temperature` 0 is greedy, `top_k` 0 keeps all tokens, and `max_tokens` None is what the context
    has left.
    """

    end_tokens: frozenset[int] = frozenset()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


@dataclass(frozen=True)
class _Rule:
    """What a value must be, in words and as a test; None is as if it was not there."""

    words: str
    holds: Callable[[float], bool]
    whole: bool = False

    def problem(self, name: str, value: object) -> str | None:
        kinds: tuple[type, ...] = (int,) if self.whole else (int, float)
        # JSON's true is an integer in Python; NaN and infinities are no JSON
        if not isinstance(value, bool) and isinstance(value, kinds) and self._fits(value):
            return None
        return f"{name} is {value!r:.100}, and must be {self.words}"

    def _fits(self, value: Any) -> bool:
        try:
            return math.isfinite(value) and self.holds(value)
        except OverflowError:
            return False


RULES: Mapping[str, _Rule] = {
    "temperature": _Rule("a number from 0 to 100", lambda value: 0 <= value <= 100),
    "top_p": _Rule("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "top_k": _Rule(
        "an integer from 0 on, or -1 for all tokens", lambda value: -1 <= value < 2**31, whole=True
    ),
    "min_p": _Rule("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": _Rule("a number from 0.01 to 10", lambda value: 0.01 <= value <= 10),
    "max_new_tokens": _Rule("an integer from 1 on", lambda value: 1 <= value < 2**31, whole=True),
}


def read_generation(directory: Path) -> Mapping[str, Any]:
    """generation_config.json, of which every value that is read is what it must be; {} without one.

    Raises TokenizerError, with all that is wrong.
    """
    path = directory / GENERATION_FILE
    found = read_object(path, TokenizerError) if path.is_file() else {}
    problems = [
        problem
        for name, rule in RULES.items()
        if found.get(name) is not None and (problem := rule.problem(name, found[name])) is not None
    ]
    if not isinstance(found.get("do_sample"), bool | None):
        problems.append(f"do_sample is {found['do_sample']!r:.100}, and must be true or false")
    if problems:
        raise TokenizerError(f"{path}: {'; '.join(problems)}; correct it")
    return found


def read_defaults(directory: Path, token: Callable[[str], int | None]) -> Defaults:
    """What holds for requests that do not say otherwise; `token` gives the number of a token.

    Raises TokenizerError, also for a model without any token that ends its answers.
    """
    found = read_generation(directory)

    def number(name: str, default: float) -> float:
        value = found.get(name)
        return float(default if value is None else value)

    greedy = found.get("do_sample") is False
    return Defaults(
        end_tokens=_end_tokens(directory, found, token),
        temperature=0.0 if greedy else number("temperature", 1),
        top_p=number("top_p", 1),
        top_k=max(0, int(number("top_k", 0))),
        min_p=number("min_p", 0),
        repetition_penalty=number("repetition_penalty", 1),
        max_tokens=found.get("max_new_tokens"),
    )


def ignored(directory: Path) -> list[str]:
    """What in generation_config.json would change answers, and has no effect in the service.

    Raises TokenizerError.
    """
    path = directory / GENERATION_FILE
    found = read_generation(directory)
    names = [
        name
        for name, without in IGNORED.items()
        if found.get(name) is not None and found[name] not in without
    ]
    if not names:
        return []
    return [f"{path}: {', '.join(names)}: the service does not heed it; answers are as without"]


def _end_tokens(
    directory: Path, generation: Mapping[str, Any], token: Callable[[str], int | None]
) -> frozenset[int]:
    """All that any of the files calls an end: a model may end its turn by one and text by another.

    Raises TokenizerError if there is none.
    """
    config = read_object(directory / CONFIG_FILE, TokenizerError)
    text = config.get("text_config")
    ends = {
        *_numbers(directory / GENERATION_FILE, generation.get("eos_token_id")),
        *_numbers(directory / CONFIG_FILE, config.get("eos_token_id")),
        *_numbers(
            directory / CONFIG_FILE, text.get("eos_token_id") if isinstance(text, dict) else None
        ),
        *_of_tokenizer(directory, token),
    }
    if not ends:
        raise TokenizerError(
            f"{directory}: neither {GENERATION_FILE} nor {CONFIG_FILE} has an eos_token_id, and "
            f"{TOKENIZER_CONFIG_FILE} names no eos_token that the tokenizer has: answers would "
            "never end; take these files as the checkpoint's publisher has them now"
        )
    return frozenset(ends)


def _numbers(path: Path, value: object) -> Iterator[int]:
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise TokenizerError(
                f"{path}: eos_token_id is {value!r:.100}, and must be a token's number or a "
                "list of them; correct it"
            )
        yield token


def _of_tokenizer(directory: Path, token: Callable[[str], int | None]) -> Iterator[int]:
    path = directory / TOKENIZER_CONFIG_FILE
    named = read_object(path, TokenizerError).get("eos_token") if path.is_file() else None
    content = named.get("content") if isinstance(named, dict) else named
    number = token(content) if isinstance(content, str) else None
    if number is not None:
        yield number
