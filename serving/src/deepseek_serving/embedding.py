"""Texts to vectors: a verified text encoder, and the bounded line in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from deepseek_serving.check import check
from deepseek_serving.documents import load_tokenizer, read_object
from deepseek_serving.errors import TokenizerError
from deepseek_serving.files import RECORD_FILE
from deepseek_serving.release import verify_artefact
from deepseek_serving.runtime import Encoder
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEncoder
from deepseek_serving.settings import EmbeddingSettings

# texts that the encoder reads together
BATCH = 16


class TooLongError(ValueError):
    """A text is longer than the encoder reads."""


class BusyError(Exception):
    """As many requests wait as may wait."""


@dataclass(frozen=True)
class Embedded:
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
        # some checkpoints have their tokenizer cut and pad, which is ours to decide
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.name = name
        self.digest = digest
        self.size = encoder.size
        self.max_len = encoder.max_len
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._queue = queue
        self._present = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")

    def tokens(self, text: str | Sequence[int]) -> Sequence[int]:
        """A text as tokens. Raises TooLongError, or ValueError for tokens that there are not."""
        tokens = list(self._tokenizer.encode(text).ids) if isinstance(text, str) else text
        if len(tokens) > self.max_len:
            raise TooLongError(
                f"This model's context length is {self.max_len} tokens; a text is "
                f"{len(tokens)} tokens. Cut it into pieces."
            )
        if not tokens or max(tokens) >= self._vocabulary:
            raise ValueError(f"a text needs tokens from 0 to {self._vocabulary - 1}")
        return tokens

    async def embed(self, texts: Sequence[Sequence[int]]) -> Embedded:
        """One vector per text. Raises BusyError."""
        if self._present > self._queue:
            raise BusyError
        self._present += 1
        try:
            loop = asyncio.get_running_loop()
            parts = [
                # a long list lets others in between
                await loop.run_in_executor(
                    self._worker, self._encoder.embed, texts[first : first + BATCH]
                )
                for first in range(0, len(texts), BATCH)
            ]
        finally:
            self._present -= 1
        return Embedded(np.concatenate(parts), sum(map(len, texts)))

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)


def load_embedder(settings: EmbeddingSettings, public_key: Path, queue: int) -> Embedder:
    """Verify the encoder's artefact, then load it."""
    folder = settings.graph
    digest = verify_artefact(folder, public_key, folder.name)
    check(folder, TokenizerError, decoder=False)
    encoder = OnnxRuntimeEncoder(folder, settings.threads)
    tokenizer = load_tokenizer(folder)
    record = read_object(folder / RECORD_FILE, TokenizerError)
    return Embedder(
        folder.parent.name,
        digest,
        encoder,
        tokenizer,
        vocabulary=record["vocabulary"],
        queue=queue,
    )
