"""The body of a request for embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from deepseek_serving.generation.request import Embedding
from deepseek_serving.http.schema.accepted import EmbeddingAccepted
from deepseek_serving.http.schema.bounds import MOST_TEXTS, AtMost, Count, Name, Texts, texts_of


class EmbeddingRequest(EmbeddingAccepted):
    """The body of POST /v1/embeddings."""

    model: Name
    input: Annotated[Texts, AtMost(MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None

    def asked(self) -> Embedding:
        return Embedding(
            model=self.model,
            texts=texts_of(self.input),
            encoding_format=self.encoding_format,
            dimensions=self.dimensions,
        )
