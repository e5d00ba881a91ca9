"""Thoughts as `encrypted_content`, for clients that send a thought back in no other form.

Nothing is secret in them: the client has had the thought as text, and may send any other. They are
encoded, so that nobody takes them for text, and so that those of other services are told apart.
"""

from __future__ import annotations

import base64
import binascii

PREFIX = "text:"


def encoded(thought: str) -> str:
    """A thought as a client gets it."""
    return PREFIX + base64.b64encode(thought.encode("utf-8", "replace")).decode("ascii")


def decoded(content: str) -> str:
    """The thought that was sent so. Raises ValueError for one of another service."""
    if not content.startswith(PREFIX):
        raise ValueError("not one of ours")
    try:
        return base64.b64decode(content.removeprefix(PREFIX), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("cut or changed") from error
