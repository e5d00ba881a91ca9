"""Which models of the site a key may use, and which it is told of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import waiting
from hypothesis import given
from hypothesis import strategies as st
from support import MODEL, serve_app
from test_faults import Hanging
from waiting import http_client

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.policy import keys
from deepseek_serving.policy.catalogue import Catalogue
from deepseek_serving.policy.cli import main
from deepseek_serving.policy.keys import KeyFileError, KeyRing
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

OWN = [MODEL, "own"]
SITE = [*OWN, "chat-7b", "chat"]
ASKS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": [5], "max_tokens": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
    ("/v1/responses", {"input": "a", "max_output_tokens": 16}),
    ("/tokenize", {"prompt": "a"}),
    ("/detokenize", {"tokens": [5]}),
]


def written(path: Path, *models: Any) -> Path:
    path.write_text(json.dumps({"schema": 1, "models": models}))
    return path


@dataclass
class Site:
    """A service of one model of two, and a key for each way to use them."""

    client: httpx.Client
    catalogue: Path
    sent: dict[str, str]

    def ask(
        self, key: str, method: str, path: str, body: Any = None, hidden: str = ""
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.sent[key]}"}
        if hidden:
            headers["x-deepseek-hidden"] = hidden
        return self.client.request(method, path, json=body, headers=headers)

    def listed(self, key: str) -> list[str]:
        return [card["id"] for card in self.ask(key, "GET", "/v1/models").json()["data"]]


@pytest.fixture(scope="module")
def site(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    mine, other = {"id": MODEL, "aliases": ["own"]}, {"id": "chat-7b", "aliases": ["chat"]}
    file = written(directory / "models.json", mine, other)
    ring = directory / "keys.json"
    allowed = {"all": None, "own": [MODEL], "other": ["chat-7b"], "alias": ["own"]}
    sent = {name: keys.add(ring, name, models=models) for name, models in allowed.items()}
    scheduler = Scheduler(Hanging())
    scheduler.start()
    release = Release(MODEL, "1", "0" * 64, graph)
    service = Service(release, scheduler, ChatTokenizer(graph), aliases=["own"])
    catalogue = Catalogue({MODEL: ["own"]}, file, poll_seconds=0.05)
    app = create_app(service, KeyRing(ring), catalogue=catalogue)
    with serve_app(app) as url, http_client(url) as client:
        yield Site(client, file, sent)
    scheduler.stop()


@pytest.mark.parametrize(
    ("key", "names"),
    [("all", SITE), ("own", OWN), ("other", ["chat-7b", "chat"]), ("alias", ["own"])],
)
def test_a_key_is_told_of_the_models_that_it_may_use(
    site: Site, key: str, names: list[str]
) -> None:
    assert site.listed(key) == names
    for name in SITE:
        reply = site.ask(key, "GET", f"/v1/models/{name}")
        assert reply.status_code == (200 if name in names else 404), name


@pytest.mark.parametrize(("path", "body"), ASKS)
def test_what_a_key_may_not_use_does_not_exist_for_it(
    site: Site, path: str, body: dict[str, Any]
) -> None:
    for name in OWN:
        assert site.ask("own", "POST", path, {**body, "model": name}).status_code == 200, name
        forbidden = site.ask("other", "POST", path, {**body, "model": name})
        absent = site.ask("other", "POST", path, {**body, "model": "gpt-4"})
        assert forbidden.status_code == absent.status_code == 404
        told, none = forbidden.json()["error"], absent.json()["error"]
        assert told.pop("message").replace(name, "gpt-4") == none.pop("message")
        assert (
            told
            == none
            == {
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        )
    # another worker has it: the gateway would not have sent it here
    assert site.ask("all", "POST", path, {**body, "model": "chat-7b"}).status_code == 404


@pytest.mark.parametrize(
    ("key", "hidden", "names"),
    [
        ("all", "chat-7b", OWN),
        ("all", MODEL, ["chat-7b", "chat"]),
        ("own", "chat-7b,of-nobody", OWN),
        ("other", f"{MODEL},chat-7b", []),
    ],
)
def test_what_a_gateway_hides_from_a_client_does_not_exist_for_it_either(
    site: Site, key: str, hidden: str, names: list[str]
) -> None:
    cards = site.ask(key, "GET", "/v1/models", hidden=hidden).json()["data"]
    assert [card["id"] for card in cards] == names
    body = {"model": "chat", "prompt": [5], "max_tokens": 1}
    refusal = site.ask(key, "POST", "/v1/completions", body, hidden).json()["error"]
    assert refusal["code"] == "model_not_found"
    if "chat" not in names:
        assert "do not have access" in refusal["message"]
        assert site.ask(key, "GET", "/v1/models/chat", hidden=hidden).status_code == 404


def test_whose_tokens_are_counted_without_a_name_is_the_same_model(site: Site) -> None:
    for path, body in ASKS[-2:]:
        assert site.ask("own", "POST", path, body).status_code == 200
        assert site.ask("other", "POST", path, body).status_code == 404


def test_a_refusal_names_no_model_that_the_key_may_not_use(site: Site) -> None:
    for reply in (
        site.ask("other", "GET", f"/v1/models/{MODEL}"),
        site.ask("other", "POST", "/v1/completions", {"model": "gpt-4", "prompt": [5]}),
    ):
        said = reply.json()["error"]["message"]
        assert said.endswith("does not exist or you do not have access to it.")
    assert MODEL in site.ask("all", "GET", "/v1/models/gpt-4").json()["error"]["message"]


def test_a_new_model_of_the_site_is_known_without_a_restart(site: Site) -> None:
    before = site.catalogue.read_text()
    written(site.catalogue, {"id": MODEL}, {"id": "coder"})
    waiting.until(lambda: site.listed("all") == [*OWN, "coder"])
    site.catalogue.write_text("{")
    assert site.listed("all") == [*OWN, "coder"], "the models of before stay known"
    site.catalogue.write_text(before)
    waiting.until(lambda: site.listed("all") == SITE)


def test_a_key_for_some_models_is_made_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ["--file", str(tmp_path / "keys.json")]
    assert main([*file, "new", "--name", "ward", "--models", "r1", "chat-7b"]) == 0
    assert main([*file, "new", "--name", "lab"]) == 0
    capsys.readouterr()
    assert main([*file, "list"]) == 0
    ward, lab = capsys.readouterr().out.splitlines()
    assert "  models r1,chat-7b  " in ward
    assert "models r1" not in lab
    first, second = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert first["models"] == ["r1", "chat-7b"]
    assert "models" not in second, "services of before read it"
    for wrong in ([], ["two words"], ["x"] * 65):
        with pytest.raises(KeyFileError, match="models"):
            keys.add(tmp_path / "keys.json", "x", models=wrong)


def test_a_model_that_answers_for_another_has_only_its_own_names(tmp_path: Path) -> None:
    file = written(tmp_path / "models.json", {"id": "big", "aliases": ["b"]}, {"id": "small"})
    found = Catalogue({"small": ["s", "big", "b"]}, file)
    assert found.models == {"small": ("s",), "big": ("b",)}
    assert found.names(["small"]) == {"small", "s"}


anything = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(content=st.binary(max_size=50) | anything.map(lambda one: json.dumps(one).encode()))
def test_whatever_the_file_holds_the_own_models_are_known(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-models.json"
    path.write_bytes(content)
    catalogue = Catalogue({MODEL: ["own"]}, path)
    assert catalogue.models == {MODEL: ("own",)}
    assert catalogue.names([MODEL]) == set(OWN)


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    assert Catalogue({MODEL: []}, Path("/dev/zero")).models == {MODEL: ()}
    assert Catalogue({MODEL: []}, tmp_path / "none").models == {MODEL: ()}
