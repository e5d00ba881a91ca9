"""What clients are to show, what they ask for it, and what the scripted model says.

They import this in environments of their own: it needs nothing but Python.
"""

from __future__ import annotations

from typing import Any

# in the order of the page's columns
FEATURES = {
    "chat": "answer",
    "stream": "stream",
    "usage": "usage of a stream",
    "tools": "tool loop",
    "forced": "forced tool",
    "structured": "structured output",
    "reasoning": "reasoning",
    "responses": "responses",
    "embeddings": "embeddings",
    "models": "list of models",
    "wrong_key": "wrong key",
    "too_long": "context exceeded",
    "rate_limit": "rate limit",
    "request_id": "request id",
}

HELLO = "Say hello."
GREETING = "Hello from the ward."
THINK = "Think first: where is bed 3?"
THOUGHT = "Bed 3 is in the north."
CONCLUSION = "So it is the north."
STRUCTURED = "Which bed? Answer in JSON."
WARD, BED = "north", 3
PLACE = {"ward": WARD, "bed": BED}
LOOK_UP = "Find the patient of bed 3."
FOUND = "room 12"
ANSWERED = f"It says: {FOUND}"
# over the 8192 tokens of the context, and no body that another process would read
TOO_LONG = "word " * 10000

# what the model fills the parameters of any function with
BY_TYPE: dict[str, Any] = {"string": WARD, "integer": BED, "number": BED, "boolean": True}
