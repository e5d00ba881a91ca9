"""Texts to vectors: a verified text encoder, and the bounded line in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from deepseek_serving.backends.encoder_artifact import verified_encoder
from deepseek_serving.backends.encoder_thread import EncoderThread, TooLongError
from deepseek_serving.backends.errors import too_long
from deepseek_serving.errors import library_error
from deepseek_serving.runtime import Encoder
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder
from deepseek_serving.settings import EncoderSettings
from deepseek_serving.text.known_tokens import KnownTokens
from deepseek_serving.text.slices import SlicedTokenizer, TooManyTokensError
from deepseek_serving.text.tokenizer import added_tokens


@dataclass(frozen=True)
class Embedded:
    """Vectors [texts, size], and the tokens that were read for them."""

    vectors: npt.NDArray[np.float32]
    tokens: int


class Embedder:
    """One encoder, used by one request at a time."""

    def __init__(
        self,
        name: str,
        digest: str,
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        vocabulary: int,
        queue: int,
    ) -> None:
        self.name = name
        self.digest = digest
        self.size = encoder.size
        self.max_len = encoder.max_len
        self._encoder = encoder
        self._tokenizer = SlicedTokenizer(tokenizer)
        self._known = KnownTokens.of_added(vocabulary, added_tokens(tokenizer))
        self._thread = EncoderThread(queue)

    def tokens(self, text: str | Sequence[int]) -> Sequence[int]:
        """A text as tokens. Raises TooLongError, or ValueError for tokens that there are not."""
        if isinstance(text, str):
            tokens: Sequence[int] = self._encoded(text)
        elif len(text) > self.max_len:
            raise self._too_long(len(text))
        else:
            tokens = list(text)
        if not tokens:
            raise ValueError("a text needs at least one token")
        wrong = self._known.wrong_number(tokens)
        if wrong := wrong or (self._known.wrong_text(text) if isinstance(text, str) else None):
            raise ValueError(wrong)
        return tokens

    def _encoded(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text, special=True, most=self.max_len)
        except TooManyTokensError as error:
            raise self._too_long(error.least) from error
        except BaseException as error:
            raise ValueError(f"the text: {library_error('tokenizers', error)}") from error

    def _too_long(self, tokens: int) -> TooLongError:
        found = f"a text is at least {tokens} tokens. Cut it into pieces."
        return TooLongError(too_long(self.max_len, found))

    async def embed(self, texts: Sequence[Sequence[int]]) -> Embedded:
        """One vector per text. Raises BusyError or EngineError."""
        vectors = await self._thread.run(texts, self._encoder.embed)
        return Embedded(vectors, sum(map(len, texts)))

    def close(self) -> None:
        self._thread.close()


def load_embedder(settings: EncoderSettings, public_key: Path, queue: int, data: bool) -> Embedder:
    """Verify the encoder's artifact, then load it; `data`: marks in texts are text."""
    artifact = verified_encoder(settings.graph, public_key, text_is_data=data)
    return Embedder(
        artifact.name,
        artifact.digest,
        OnnxRuntimeEncoder(settings.graph, settings.threads),
        artifact.tokenizer,
        vocabulary=artifact.record["vocabulary"],
        queue=queue,
    )
