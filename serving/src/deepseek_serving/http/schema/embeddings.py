"""The body of a request for embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepseek_serving.generation.request import Embedding
from deepseek_serving.http.schema.bounds import MOST_TEXTS, Name, TokenPrompt, texts_of


class EmbeddingRequest(BaseModel):
    """The body of POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    input: (
        str
        | TokenPrompt
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
        | Annotated[list[TokenPrompt], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    # no effect on the answer
    user: str | None = None

    def asked(self) -> Embedding:
        return Embedding(
            model=self.model,
            texts=texts_of(self.input),
            encoding_format=self.encoding_format,
            dimensions=self.dimensions,
        )
