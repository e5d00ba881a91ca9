"""Every line of the log can be read by what collects it."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.log import FIELDS, MOST_LINE, JsonFormatter, TextFormatter

TEXT = st.one_of(
    st.text(max_size=50),
    st.builds(
        lambda text, times: text * times, st.text(min_size=1, max_size=4), st.integers(0, 9000)
    ),
)


def _line(formatter: logging.Formatter, message: str, error: str = "", **fields: object) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        if error:
            raise ValueError(error)
    except ValueError:
        logger.exception("%s", message, extra=fields)
    else:
        logger.info("%s", message, extra=fields)
    return stream.getvalue()


@given(message=TEXT, error=TEXT, values=st.lists(TEXT, min_size=len(FIELDS), max_size=len(FIELDS)))
def test_every_line_is_json_and_short_enough(message: str, error: str, values: list[str]) -> None:
    line = _line(JsonFormatter(), message, error, **dict(zip(FIELDS, values, strict=True)))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line.isascii()
    assert len(line) <= MOST_LINE + 1
    entry = json.loads(line)
    assert {"time", "level", "message", *FIELDS} <= set(entry)


def test_short_fields_are_as_they_were() -> None:
    line = _line(JsonFormatter(), "a message", path="/v1/models", status=200, seconds=0.5)
    entry = json.loads(line)
    assert (entry["path"], entry["status"], entry["seconds"]) == ("/v1/models", 200, 0.5)
    assert entry["message"] == "a message"


@pytest.mark.parametrize("text", ["a\nINFO b", "a\r\x1b[2J", "a\u2028b", "\ud800"])
def test_lines_for_people_are_one_line_each(text: str) -> None:
    line = _line(TextFormatter("%(levelname)s %(message)s"), text)
    assert line.count("\n") == 1
    assert line[:-1].isprintable()


def test_lines_for_people_are_bounded() -> None:
    assert len(_line(TextFormatter("%(message)s"), "x" * 10**6)) <= MOST_LINE + 1
