"""What client libraries are driven through is as recorded, and the page says so.

Two libraries always; all of them with ONPREM_TEST_ALL=true, in the environments of `make clients`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from conversation import FEATURES
from matrix import CLIENTS, Client, SiteProcess, served
from table import PAGE, WORKS, made, recorded

ALL = os.environ.get("ONPREM_TEST_ALL") == "true"
CHOSEN = [client for client in CLIENTS if ALL or client.serving]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    with served(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.mark.parametrize("client", CHOSEN, ids=[client.name for client in CHOSEN])
def test_a_library_does_what_the_page_says(client: Client, site: SiteProcess) -> None:
    expected: dict[str, Any] = recorded()["clients"][client.name]
    found = site.drive(client, everywhere=not ALL)
    # what fails is told by the library in its own words, which may change with its version
    assert {name: outcome == WORKS for name, outcome in found.results.items()} == {
        name: outcome == WORKS for name, outcome in expected["results"].items()
    }, found.results
    if ALL:
        assert found.versions == expected["versions"]


def test_the_page_is_made_of_what_was_recorded() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(recorded())
    assert list(recorded()["clients"]) == [client.name for client in CLIENTS]
    for entry in recorded()["clients"].values():
        assert set(entry["results"]) <= set(FEATURES)
