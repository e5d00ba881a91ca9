"""Client libraries do what their page says, and each example of the how-to page runs.

Two libraries and the examples for them and for curl always; all with ONPREM_TEST_ALL=true.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conversation import FEATURES
from examples import PAGE as HOW_TO
from examples import Page, read
from matrix import CLIENTS, OFFLINE, Client, SiteProcess, all_clients, served
from table import PAGE, WORKS, made, recorded

ALL = all_clients()
CHOSEN = [client for client in CLIENTS if ALL or client.serving]
# known before there is a service
NOWHERE = dict.fromkeys(
    ("base_url", "mutual_url", "key", "ca", "certificate", "key_file", "model"), ""
)
EXAMPLES = [
    number
    for number, example in enumerate(read(NOWHERE).examples)
    if ALL or (example.where in ("serving", "shell") and not example.files)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    with served(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.mark.parametrize("client", CHOSEN, ids=[client.name for client in CHOSEN])
def test_a_library_does_what_the_page_says(client: Client, site: SiteProcess) -> None:
    expected: dict[str, Any] = recorded()["clients"][client.name]
    found = site.drive(client, everywhere=not ALL)
    # what fails is told by the library in its own words, which may change with its version
    works = {name for name, outcome in found.results.items() if outcome == WORKS}
    recorded_works = {name for name, outcome in expected["results"].items() if outcome == WORKS}
    assert recorded_works <= works, found.results
    if ALL:
        assert (works, found.versions) == (recorded_works, expected["versions"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteProcess]:
    with served(tmp_path_factory.mktemp("gateway"), gateway=True) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS if ALL else (), ids=lambda client: client.name)
def test_a_library_does_the_same_through_a_gateway(client: Client, gateway: SiteProcess) -> None:
    expected = recorded()["clients"][client.name]["gateway"]
    found = gateway.drive(client, everywhere=False).results
    assert {name for name in found if found[name] == WORKS} == {
        name for name in expected if expected[name] == WORKS
    }, found


def test_the_page_is_made_of_what_was_recorded() -> None:
    assert PAGE.read_text(encoding="utf-8") == made(recorded())
    assert list(recorded()["clients"]) == [client.name for client in CLIENTS]
    for entry in recorded()["clients"].values():
        assert set(entry["gateway"]) == set(entry["results"]) <= set(FEATURES)


@pytest.fixture(scope="module")
def page(site: SiteProcess) -> Page:
    return read(site.told)


@pytest.mark.parametrize("number", EXAMPLES)
def test_an_example_of_the_page_runs(
    number: int, page: Page, site: SiteProcess, tmp_path: Path
) -> None:
    example = page.examples[number]
    done = site.run(example.command(tmp_path), cwd=tmp_path, variables=page.environment)
    assert done.returncode == 0, f"{example.text}\n{done.stderr}"
    assert example.says in done.stdout


def test_the_page_names_what_the_tests_switch_off() -> None:
    text = HOW_TO.read_text(encoding="utf-8")
    for name, value in OFFLINE.items():
        assert f"{name}={value}" in text
