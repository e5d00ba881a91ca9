"""The log: lines for people, or one JSON object per line for what collects logs.

Nothing that a client or the model wrote is logged, but for paths and request ids.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import TextIO

# what a log record may carry beside its message, as `extra`
FIELDS = (
    "client",
    "client_request_id",
    "key",
    "method",
    "path",
    "request_id",
    "seconds",
    "status",
)


# What collects lines cuts those that are too long, which are no JSON then: rsyslog and HAProxy take
# 8 KiB at least, journald more. A character may take six bytes as it is written.
MOST_FIELD = 256
MOST_MESSAGE = 512
MOST_EXCEPTION = 3000
MOST_LINE = 8000


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _field(value: object) -> object:
    return value if isinstance(value, (bool, int, float)) else _cut(str(value), MOST_FIELD)


class TextFormatter(logging.Formatter):
    """For people: no line is longer than it may be, and nothing that is logged begins one."""

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord(record.__dict__)
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in record.getMessage())
        shown.msg, shown.args = _cut(said, MOST_LINE), None
        return super().format(shown)


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": _cut(record.getMessage(), MOST_MESSAGE),
        }
        entry.update(
            {name: _field(getattr(record, name)) for name in FIELDS if hasattr(record, name)}
        )
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[-MOST_EXCEPTION:]
        return self._line(entry)

    def _line(self, entry: dict[str, object]) -> str:
        """The longest texts give way until it fits."""
        while len(line := json.dumps(entry)) > MOST_LINE:
            name = max(entry, key=lambda field: len(json.dumps(entry[field])))
            text = str(entry[name])
            entry[name] = (
                text[-(len(text) // 2) :]
                if name == "exception"
                else _cut(text, max(4, len(text) // 2))
            )
        return line


def log_to(stream: TextIO, *, as_json: bool) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
