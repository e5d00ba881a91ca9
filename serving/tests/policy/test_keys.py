"""The file of keys, the command that changes it, and what a minute allows."""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.policy import keys
from deepseek_serving.policy.cli import main
from deepseek_serving.policy.keys import Key, KeyFileError, KeyRing, KeysUnavailableError
from deepseek_serving.policy.limits import Allowance, Bucket, Limiter


def make(**more: object) -> Key:
    fields = {
        "id": "0" * 12,
        "name": "x",
        "sha256": "0" * 64,
        "created": datetime.now(timezone.utc),
    }
    return Key.model_validate({**fields, **more})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_secret_is_shown_once_and_kept_as_a_hash(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["new", "--name", "ward 3", "--scope", "chat", "--tokens-per-minute", "5000"]
    assert main(["--file", str(path), *arguments]) == 0
    sent = capsys.readouterr().out.strip()
    _prefix, identifier, secret = sent.split("-", 2)
    text = path.read_text()
    assert secret not in text
    assert hashlib.sha256(secret.encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["--file", str(path), "list"]) == 0
    listed = capsys.readouterr().out
    assert listed == f"{identifier}  ward 3  chat  - requests/min  5000 tokens/min  no end\n"
    found = KeyRing(path).find(sent)
    assert found is not None
    assert found.name == "ward 3"
    assert main(["--file", str(path), "revoke", identifier]) == 0
    assert KeyRing(path).find(sent) is None
    assert main(["--file", str(path), "revoke", identifier]) == 1
    assert f"has no key '{identifier}'" in capsys.readouterr().err


def test_a_key_ends_when_it_expires(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(timezone.utc)
    ended = keys.add(path, "ended", expires=now - timedelta(seconds=1))
    begun = keys.add(path, "begun", expires=now + timedelta(hours=1))
    ring = KeyRing(path)
    assert ring.find(ended) is None
    assert ring.find(begun) is not None
    assert main(["--file", str(path), "list"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("  expired")
    assert main(["--file", str(path), "new", "--name", "y", "--expires", "2031-01-31"]) == 0
    assert keys.read(path)[capsys.readouterr().out.split("-")[1]].expires == datetime(
        2031, 1, 31, tzinfo=timezone.utc
    )


def test_mode_and_owner_of_the_file_stay(path: Path) -> None:
    keys.add(path, "one")
    path.chmod(0o640)
    keys.add(path, "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_two_who_change_the_file_do_not_lose_each_others_keys(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: keys.add(path, f"key {number}"), range(24)))
    ring = KeyRing(path)
    assert len({found.name for sent in made if (found := ring.find(sent))}) == 24


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_broken_file_leaves_the_keys_of_before_for_a_time(path: Path) -> None:
    sent, clock = keys.add(path, "x"), Clock()
    ring = KeyRing(path, poll_seconds=1, grace_seconds=60, clock=clock)
    good = path.read_bytes()
    path.write_text("{")
    clock.now = 2
    assert ring.find(sent) is not None
    clock.now = 61
    assert ring.find(sent) is not None
    assert ring.seconds_broken == 59
    # whatever it becomes, the time goes on until it is whole
    path.write_bytes(good[:-4])
    clock.now = 63
    with pytest.raises(KeysUnavailableError):
        ring.find(sent)
    assert ring.in_force == 0
    path.write_bytes(good)
    clock.now = 65
    assert ring.find(sent) is not None
    assert (ring.in_force, ring.seconds_broken) == (1, 0)


def test_a_file_that_cannot_be_read_is_broken_and_one_that_is_gone_is_empty(path: Path) -> None:
    sent, clock = keys.add(path, "x"), Clock()
    ring = KeyRing(path, poll_seconds=1, grace_seconds=60, clock=clock)
    away = path.rename(path.with_name("away"))
    path.mkdir()
    clock.now = 2
    assert ring.find(sent) is not None
    assert ring.seconds_broken == 0
    clock.now = 3
    assert ring.seconds_broken == 1
    path.rmdir()
    clock.now = 5
    assert ring.find(sent) is None
    assert ring.seconds_broken == 0
    away.rename(path)
    clock.now = 7
    assert ring.find(sent) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "keys.0.name: "),
        ({"id": "short"}, "keys.0.id: "),
        ({"scopes": ["everything"]}, "keys.0.scopes.0: "),
        ({"tokens_per_minute": 0}, "keys.0.tokens_per_minute: "),
        ({"colour": "red"}, "keys.0.colour: "),
        ({"created": "2026-01-01T00:00:00"}, "keys.0.created: "),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_place(
    path: Path, change: dict[str, object], message: str
) -> None:
    entry = {**make().model_dump(mode="json"), **change}
    path.write_text(json.dumps({"schema": 1, "keys": [entry]}))
    with pytest.raises(KeyFileError, match=message) as caught:
        keys.read(path)
    assert str(path) in str(caught.value)
    assert entry["sha256"] not in str(caught.value)


def test_an_id_twice_is_refused() -> None:
    entry = make().model_dump(mode="json")
    with pytest.raises(KeyFileError, match="same id"):
        keys.parse(json.dumps({"schema": 1, "keys": [entry, entry]}))


@given(text=st.text(max_size=60))
def test_any_text_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(KeyFileError):
        keys.parse(text)


@given(sent=st.text(max_size=80))
def test_no_text_is_a_key_by_chance(tmp_path_factory: pytest.TempPathFactory, sent: str) -> None:
    path = tmp_path_factory.mktemp("ring") / "keys.json"
    keys.add(path, "x")
    assert KeyRing(path).find(sent) is None


class Time:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    capacity=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 120), st.integers(1, 1000)), max_size=30),
)
def test_no_minute_ever_gives_more_than_two_of_them_hold(
    capacity: int, steps: list[tuple[float, int]]
) -> None:
    """What was taken in any time is at most a full bucket and what flowed in meanwhile."""
    clock = Time()
    bucket = Bucket(capacity, clock)
    taken = 0
    for pause, amount in steps:
        clock.now += pause
        wait = bucket.seconds_until(amount)
        if wait == 0:
            bucket.take(amount)
            taken += amount
        elif amount <= capacity:
            clock.now += wait + 1e-6
            assert bucket.seconds_until(amount) == 0
        assert taken <= capacity + clock.now * capacity / 60 + 1e-6


def test_a_debt_is_paid_before_more_is_given() -> None:
    clock = Time()
    allowance = Allowance(make(tokens_per_minute=60), clock)
    assert allowance.take("tokens", 10) is None
    allowance.settle(10, 90)
    refusal = allowance.take("tokens", 1)
    assert refusal is not None
    assert refusal.seconds == pytest.approx(31)
    clock.now += 31.1
    assert allowance.take("tokens", 1) is None


def test_what_was_used_stays_used_when_the_quota_changes() -> None:
    clock = Time()
    limiter = Limiter(clock)
    assert limiter.of(make(requests_per_minute=5)).take("requests", 5) is None
    assert limiter.of(make(requests_per_minute=50)).take("requests", 1) is not None
    assert limiter.of(make()).take("requests", 10**6) is None
