"""Tokenizers that give all tokens of a text, and no others."""

from __future__ import annotations

from tokenizers import Tokenizer


def uncut(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without the truncation and padding that its file may ask for.

    Some checkpoints leave there what they were trained or converted with: prompts would silently
    lose what follows the 512th token, the header of the assistant's turn with it. How long a text
    may be is the service's to decide, and it says so.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
