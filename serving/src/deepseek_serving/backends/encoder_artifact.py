"""The artifact of an encoder: verified, tried, and what the service reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deepseek_serving.check.bounded import check
from deepseek_serving.errors import TokenizerError
from deepseek_serving.model_files.layout import RECORD_FILE
from deepseek_serving.text.documents import load_tokenizer, read_object
from deepseek_serving.trust.release import verify_artifact


@dataclass(frozen=True)
class EncoderArtifact:
    """What a verified artifact says, beside its graph; `record` is its export.json."""

    name: str
    digest: str
    tokenizer: Tokenizer
    record: Mapping[str, Any]


def verified_encoder(directory: Path, public_key: Path, *, text_is_data: bool) -> EncoderArtifact:
    """Verify the artifact in `<store>/graph/<name>/<digest>`, then read it.

    `text_is_data`: marks of the tokenizer in texts are text. Raises ServingError.
    """
    name = directory.parent.name
    digest = verify_artifact(directory, public_key, directory.name, expect=("graph", name)).digest
    check(directory, TokenizerError, decoder=False)
    tokenizer = load_tokenizer(directory)
    tokenizer.encode_special_tokens = text_is_data
    record = read_object(directory / RECORD_FILE, TokenizerError)
    return EncoderArtifact(name, digest, tokenizer, record)
