"""The log: lines for people, or one JSON object per line for what collects logs.

Nothing that a client or the model wrote is logged, but for paths and request ids.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import TextIO

# what a log record may carry beside its message, as `extra`
FIELDS = ("client", "key", "method", "path", "request_id", "seconds", "status")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry.update({name: getattr(record, name) for name in FIELDS if hasattr(record, name)})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def log_to(stream: TextIO, *, as_json: bool) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
