"""Members of a JSON object as text, for an object that is not complete yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# made once: json.dumps makes one for every call that asks for other separators
_encode = json.JSONEncoder(separators=(",", ":")).encode


def encoded_members(values: Mapping[str, Any]) -> str:
    """The members of an object, without its braces."""
    return _encode(values)[1:-1]
