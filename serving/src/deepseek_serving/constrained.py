"""Answers that must be JSON: llguidance says which tokens may come next.

llguidance interprets its grammars and compiles nothing to machine code, so it works where the
sandbox forbids memory that is both writable and executable.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from deepseek_serving.errors import TokenizerError
from deepseek_serving.sampling import SamplingError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# some white space, as people write JSON, but no endless run of it
JSON_STYLE: JsonCompileOptions = {"whitespace_pattern": r"[ \n]{0,4}"}


class SchemaError(ValueError):
    """The JSON schema cannot be enforced."""


class Grammar:
    """What an answer must look like; each answer follows a copy of its own."""

    def __init__(self, matcher: LLMatcher, after: int | None) -> None:
        self._matcher = matcher
        self._after = after

    def constraint(self) -> MatcherConstraint:
        return MatcherConstraint(self._matcher.deep_copy(), self._after)


class MatcherConstraint:
    """One answer's way through a grammar, from its beginning or after the token `after`."""

    def __init__(self, matcher: LLMatcher, after: int | None) -> None:
        self._matcher = matcher
        self._after = after

    @property
    def complete(self) -> bool:
        stopped = self._after is None and self._matcher.is_stopped()
        return stopped and not self._matcher.is_error()

    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """Raises SamplingError when the grammar asks for more work than a step may take."""
        if self._after is not None:
            return None
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise SamplingError(f"the grammar: {self._matcher.stop_reason()}")
        mask = np.frombuffer(bits, dtype=np.uint8)
        return np.unpackbits(mask, bitorder="little").astype(np.bool_)

    def accept(self, token: int) -> None:
        if self._after is None:
            self._matcher.consume_token(token)
        elif token == self._after:
            self._after = None


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


class Grammars:
    """Makes grammars over one tokenizer's vocabulary."""

    def __init__(self, folder: Path, vocabulary: int, end_tokens: Collection[int]) -> None:
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = LLTokenizer(
                path.read_text(encoding="utf-8"),
                n_vocab=vocabulary,
                eos_token=sorted(end_tokens) or None,
            )
        except ValueError as error:
            raise TokenizerError(
                f"{path}: llguidance cannot read it, so that no answer could be held to a "
                f"grammar: {error}"
            ) from error

    def token_bytes(self, token: int) -> bytes:
        """The token's part of the text; it may be less than a character."""
        return bytes(self._tokenizer.decode_bytes([token]))

    def json(self, schema: Mapping[str, Any], after: int | None = None) -> Grammar:
        """Text that the schema accepts. Raises SchemaError."""
        try:
            return self._grammar(
                LLMatcher.grammar_from_json_schema(_text(schema), overrides=JSON_STYLE), after
            )
        except (ValueError, RecursionError) as error:
            raise SchemaError(str(error)) from error

    def one_of(
        self, before: str, schemas: Sequence[Mapping[str, Any]], behind: str, after: int | None
    ) -> Grammar:
        """Text that one of the schemas accepts, between two fixed texts. Raises SchemaError."""
        schema = {"anyOf": list(schemas), "x-guidance": JSON_STYLE}
        parts = [_text(before)] if before else []
        parts += ["call"] + ([_text(behind)] if behind else [])
        try:
            source = f"start: {' '.join(parts)}\ncall: %json {_text(schema)}"
            return self._grammar(LLMatcher.grammar_from_lark(source), after)
        except (ValueError, RecursionError) as error:
            raise SchemaError(str(error)) from error

    def _grammar(self, grammar: str, after: int | None) -> Grammar:
        # its longer messages repeat the schema, which is the client's
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise SchemaError(str(matcher.get_error()).split("\n")[0])
        return Grammar(matcher, after)
