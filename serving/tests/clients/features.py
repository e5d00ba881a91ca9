"""Runs what one client library is to show, and prints what came of it as JSON.

Each client is a program in an environment of its own, called with the site's file and the number of
the key that it may use up. Nothing but Python's own library is imported here.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import inspect
import json
import ssl
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from conversation import FEATURES

Check = Callable[[], None] | Callable[[], Coroutine[Any, Any, None]]

_checks: dict[str, Check] = {}


def feature(check: Check) -> Check:
    """What the library is to show, by the function's name; it raises where the library does not."""
    name = check.__name__
    assert name in FEATURES, name
    _checks[name] = check
    return check


class Site:
    """What a client knows of the service."""

    def __init__(self, file: str, number: str) -> None:
        told = json.loads(Path(file).read_text(encoding="utf-8"))
        self.base_url: str = told["base_url"]
        self.ca: str = told["ca"]
        self.key: str = told["key"]
        self.model: str = told["model"]
        self.encoder: str = told["encoder"]
        self._limited: str = told["limited"][int(number)]

    def used_up(self) -> str:
        """A key whose rate has just been used up; a second later there is one request again."""
        address = urlsplit(self.base_url)
        context = ssl.create_default_context(cafile=self.ca)
        connection = http.client.HTTPSConnection(str(address.netloc), context=context)
        headers = {"authorization": f"Bearer {self._limited}", "content-type": "application/json"}
        status = 0
        for _request in range(200):
            connection.request("POST", f"{address.path}/chat/completions", b"{}", headers)
            response = connection.getresponse()
            response.read()
            status = response.status
            if status == 429:
                break
        connection.close()
        assert status == 429, status
        return self._limited


@dataclass
class Caught:
    """What a block raised, once it has."""

    error: Any = None


@contextmanager
def raises(*kinds: type[Exception]) -> Iterator[Caught]:
    """A block that must raise one of these."""
    caught = Caught()
    try:
        yield caught
    except kinds as error:
        caught.error = error
    else:
        raise AssertionError("nothing was raised")


site = Site(*sys.argv[1:3])


def main(*distributions: str) -> None:
    """Run the checks in order; `distributions` are what the client consists of."""
    results = {}
    with asyncio.Runner() as runner:
        for name, check in _checks.items():
            try:
                if inspect.iscoroutinefunction(check):
                    runner.run(check())
                else:
                    check()
                results[name] = "works"
            except Exception as error:
                traceback.print_exc()
                results[name] = f"{type(error).__name__}: {error}"[:300]
    versions = {name: importlib.metadata.version(name) for name in distributions}
    print(json.dumps({"versions": versions, "results": results}))
