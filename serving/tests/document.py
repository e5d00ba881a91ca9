"""Why the service may refuse what the published document admits."""

from __future__ import annotations

import re

# Rules between members, and what only the model or its tokenizer knows: docs/reference/api.md has
# them under "What the document does not say".
REASONS: dict[str, str] = {
    "context_length_exceeded": "",
    "invalid_json_schema": "",
    "request_too_complex": "",
    "unsupported_value": r"[Tt]he vocabulary|template|answers are asked for|calls of this",
    "invalid_value": (
        r"top_logprobs needs logprobs|prompt_logprobs and stream|min_tokens must not be more"
        r"|tool_choice (names|is required)|exclude each other|the prompt is empty"
        r"|the vocabulary has|text_1 has \d+ texts|has more values than|a message needs content"
        r"|not learned|dimensions|none that this service has sent|levels|values or \d+ characters"
        r"|of the triggers|held to one format|what the answer must look like"
        # as doubles, the integers past either end are the end itself
        r"|'seed': expected (less than|at least)"
    ),
}


def is_listed(code: str | None, message: str, param: str | None) -> bool:
    """Whether a refusal of something that the document admits has a listed reason."""
    if code == "invalid_value" and param in ("messages", "input"):
        # in the words of the template; what the schema has against a message is at its place
        return True
    pattern = REASONS.get(code or "")
    return pattern is not None and re.search(pattern, message) is not None
