"""How well documents fit a question: a verified cross-encoder, which reads both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from deepseek_serving.backends.encoder_artifact import verified_encoder
from deepseek_serving.backends.encoder_thread import EncoderThread, TooLongError
from deepseek_serving.backends.errors import too_long
from deepseek_serving.errors import TokenizerError, library_error
from deepseek_serving.runtime import Pair, Scorer
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeScorer
from deepseek_serving.settings import EncoderSettings
from deepseek_serving.text.known_tokens import KnownTokens
from deepseek_serving.text.slices import SlicedTokenizer, TooManyTokensError
from deepseek_serving.text.tokenizer import added_tokens


@dataclass(frozen=True)
class Pairs:
    """Questions with documents, as the cross-encoder reads them."""

    values: Sequence[Pair]

    @property
    def tokens(self) -> int:
        return sum(len(pair.tokens) for pair in self.values)


@dataclass(frozen=True)
class Scores:
    """One for each pair, and the tokens that were read for them."""

    values: Sequence[float]
    tokens: int


@dataclass(frozen=True)
class _Around:
    """The special tokens of a pair, by where they stand: tokens and types."""

    before: Pair
    between: Pair
    behind: Pair
    first_type: int
    second_type: int

    @property
    def count(self) -> int:
        return sum(len(part.tokens) for part in (self.before, self.between, self.behind))

    def pair(self, first: Sequence[int], second: Sequence[int]) -> Pair:
        before, between, behind = self.before, self.between, self.behind
        return Pair(
            [*before.tokens, *first, *between.tokens, *second, *behind.tokens],
            [
                *before.types,
                *[self.first_type] * len(first),
                *between.types,
                *[self.second_type] * len(second),
                *behind.types,
            ],
        )


def _around(path: Path, tokenizer: Tokenizer) -> _Around:
    """What the tokenizer's template puts around two texts, read off a pair of short ones.

    Raises TokenizerError where they do not come one after the other.
    """
    whole = tokenizer.encode("a", "a")
    places = [
        (sequence, [index for index, _sequence in group])
        for sequence, group in groupby(enumerate(whole.sequence_ids), key=lambda item: item[1])
    ]
    order = [sequence for sequence, _indices in places if sequence is not None]
    if order != [0, 1]:
        raise TokenizerError(
            f"{path}: its template does not put two texts one after the other, which a "
            "cross-encoder reads; take the tokenizer that the checkpoint's publisher has now"
        )
    parts: list[list[int]] = [[], [], []]
    types = [0, 0]
    seen = 0
    for sequence, indices in places:
        if sequence is None:
            parts[seen] += indices
        else:
            types[sequence] = whole.type_ids[indices[0]]
            seen += 1

    def special(indices: Sequence[int]) -> Pair:
        return Pair([whole.ids[i] for i in indices], [whole.type_ids[i] for i in indices])

    before, between, behind = map(special, parts)
    return _Around(before, between, behind, *types)


class Reranker:
    """One cross-encoder, used by one request at a time."""

    def __init__(
        self,
        name: str,
        digest: str,
        scorer: Scorer,
        tokenizer: Tokenizer,
        *,
        sigmoid: bool,
        vocabulary: int,
        queue: int,
        path: Path,
    ) -> None:
        """`sigmoid`: scores are its value of what the head says; `path` names the tokenizer."""
        self.name = name
        self.digest = digest
        self.max_len = scorer.max_len
        self._scorer = scorer
        self._sigmoid = sigmoid
        self._around = _around(path, tokenizer)
        self._known = KnownTokens.of_added(vocabulary, added_tokens(tokenizer))
        self._tokenizer = SlicedTokenizer(tokenizer)
        self._thread = EncoderThread(queue)

    def pairs(
        self,
        questions: Sequence[str],
        documents: Sequence[str],
        *,
        most: int | None = None,
        most_document: int | None = None,
    ) -> Pairs:
        """Each question with the document at its place, as tokens.

        `most`: tokens of a pair, to which its document is cut; `most_document`: of a document.
        Without them what is too long is refused: raises TooLongError.
        """
        pairs = []
        asked: tuple[str, list[int]] | None = None
        for question, document in zip(questions, documents, strict=True):
            if asked is None or asked[0] != question:
                asked = question, self._tokens(question, self._room(0))
            room = self._room(len(asked[1]), most)
            tokens = self._document(document, room, most_document, cut=most is not None)
            pairs.append(self._around.pair(asked[1], tokens))
        return Pairs(pairs)

    def _room(self, used: int, most: int | None = None) -> int:
        """Tokens that a pair has left."""
        longest = self.max_len if most is None else min(most, self.max_len)
        return longest - self._around.count - used

    def _document(self, text: str, room: int, most: int | None, *, cut: bool) -> list[int]:
        """`most`: tokens to which the document is cut; `cut`: to the room that there is, too."""
        if cut:
            most = room if most is None else min(most, room)
        if most is None:
            return self._tokens(text, room)
        tokens = self._beginning(text, max(0, most))
        if len(tokens) > room:
            raise self._too_long(len(tokens) - room)
        return tokens

    def _tokens(self, text: str, room: int) -> list[int]:
        try:
            tokens = self._tokenizer.encode(text, special=False, most=max(0, room))
        except TooManyTokensError as error:
            raise self._too_long(error.least - room) from error
        except BaseException as error:
            raise ValueError(f"the text: {library_error('tokenizers', error)}") from error
        return self._checked(text, tokens)

    def _checked(self, text: str, tokens: list[int]) -> list[int]:
        """Raises ValueError for tokens without weights, whatever the text is read as."""
        if wrong := self._known.wrong_number(tokens) or self._known.wrong_text(text):
            raise ValueError(wrong)
        return tokens

    def _beginning(self, text: str, most: int) -> list[int]:
        try:
            tokens = self._tokenizer.beginning(text, most)
        except BaseException as error:
            raise ValueError(f"the text: {library_error('tokenizers', error)}") from error
        return self._checked(text, tokens)

    def _too_long(self, beyond: int) -> TooLongError:
        return TooLongError(
            too_long(
                self.max_len,
                f"a question and its document have at least {self.max_len + beyond} tokens "
                "together. Shorten them, or set truncate_prompt_tokens.",
            )
        )

    async def score(self, pairs: Pairs, *, raw: bool = False) -> Scores:
        """One score per pair; `raw`: as the head says it. Raises BusyError or EngineError."""
        found = (await self._thread.run(pairs.values, self._scorer.score)).astype(np.float64)
        if self._sigmoid and not raw:
            found = 1 / (1 + np.exp(-found))
        return Scores(found.tolist(), pairs.tokens)

    def close(self) -> None:
        self._thread.close()


def load_reranker(settings: EncoderSettings, public_key: Path, queue: int, data: bool) -> Reranker:
    """Verify the cross-encoder's artifact, then load it; `data`: marks in texts are text."""
    artifact = verified_encoder(settings.graph, public_key, text_is_data=data)
    scorer = OnnxRuntimeScorer(settings.graph, settings.threads)
    return Reranker(
        artifact.name,
        artifact.digest,
        scorer,
        artifact.tokenizer,
        sigmoid=scorer.activation == "sigmoid",
        vocabulary=artifact.record["vocabulary"],
        queue=queue,
        path=settings.graph / "tokenizer.json",
    )
