"""The text encoders that a service may have beside its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepseek_serving.backends.embedding import Embedder, load_embedder
from deepseek_serving.backends.reranking import Reranker, load_reranker
from deepseek_serving.settings import Settings


@dataclass(frozen=True)
class Encoders:
    """What makes vectors of texts, and what scores pairs of them."""

    embedder: Embedder | None = None
    reranker: Reranker | None = None

    def __iter__(self) -> Iterator[Embedder | Reranker]:
        return (encoder for encoder in (self.embedder, self.reranker) if encoder is not None)

    def close(self) -> None:
        for encoder in self:
            encoder.close()


def load_encoders(settings: Settings, public_key: Path) -> Encoders:
    """Those that the settings name, verified."""
    queue = settings.engine.queue
    # what a client wrote is never one of the marks that a model's tokenizer puts around texts
    data = settings.engine.text_is_data != "never"
    embeddings, rerank = settings.embeddings, settings.rerank
    return Encoders(
        None if embeddings is None else load_embedder(embeddings, public_key, queue, data),
        None if rerank is None else load_reranker(rerank, public_key, queue, data),
    )
