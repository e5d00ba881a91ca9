"""instructor."""

from __future__ import annotations

import instructor
import openai
from conversation import HELLO, LOOK_UP, PLACE, STRUCTURED, TOO_LONG
from features import feature, main, raises, site
from instructor.core import InstructorRetryException
from pydantic import BaseModel

MODES = (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON)


class Place(BaseModel):
    """Where a patient is."""

    ward: str
    bed: int


def client(mode, key=site.key):
    sdk = openai.OpenAI(base_url=site.base_url, api_key=key)
    return instructor.from_openai(sdk, mode=mode)


def ask(text, mode, **more):
    return client(mode, **more).chat.completions.create(
        model=site.model,
        messages=[{"role": "user", "content": text}],
        response_model=Place,
        max_retries=0,
    )


@feature
def structured():
    for mode in MODES[1:]:
        assert ask(STRUCTURED, mode).model_dump() == PLACE, mode


@feature
def forced():
    assert ask(LOOK_UP, instructor.Mode.TOOLS).model_dump() == PLACE


@feature
def stream():
    parts = client(instructor.Mode.JSON_SCHEMA).chat.completions.create_partial(
        model=site.model,
        messages=[{"role": "user", "content": STRUCTURED}],
        response_model=Place,
    )
    *_begun, last = parts
    assert last.model_dump() == PLACE


@feature
def wrong_key():
    with raises(openai.AuthenticationError, InstructorRetryException) as raised:
        ask(HELLO, instructor.Mode.JSON_SCHEMA, key="wrong")
    assert "invalid_api_key" in str(raised.error)


@feature
def too_long():
    with raises(openai.BadRequestError, InstructorRetryException) as raised:
        ask(TOO_LONG, instructor.Mode.JSON_SCHEMA)
    assert "context_length_exceeded" in str(raised.error)


@feature
def rate_limit():
    found = ask(STRUCTURED, instructor.Mode.JSON_SCHEMA, key=site.used_up())
    assert found.model_dump() == PLACE


main("instructor", "openai")
