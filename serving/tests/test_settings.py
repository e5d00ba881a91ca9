"""The settings file: what it accepts, and how it says what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.errors import SettingsError
from deepseek_serving.settings import parse, read

GOOD = """
[server]
host = "10.0.30.11"
port = 8000
tls_certificate = "${CREDENTIALS_DIRECTORY}/host.pem"
tls_key = "${CREDENTIALS_DIRECTORY}/host.key"
tls_client_ca = "/etc/deepseek/tls/ca.pem"
allowed_clients = ["gateway-1"]

[model]
store = "/srv/deepseek/store"
name = "tiny-onprem"
version = "1.0.0"
public_key = "/etc/deepseek/release.pub"

[engine]
kind = "onnxruntime"
threads = 2
"""
VARIABLES = {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}


def test_a_good_file() -> None:
    settings = parse(GOOD, VARIABLES)
    assert settings.server.tls_key == Path("/run/credentials/x/host.key")
    assert settings.server.allowed_clients == ["gateway-1"]
    assert settings.engine.threads == 2
    assert settings.engine.slots is None
    assert settings.model.precision == "fp32"


def test_a_precision() -> None:
    text = GOOD.replace('version = "1.0.0"', 'version = "1.0.0"\nprecision = "int8"')
    assert parse(text, VARIABLES).model.precision == "int8"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port = 8000", "", "server.port: missing"),
        ("port = 8000", "port = 70000", "server.port: .* less than or equal to 65535"),
        ("port = 8000", "port = 8000\ncolour = 1", "server.colour: unknown setting"),
        ("[engine]", "[motor]", "motor: unknown setting"),
        ('"/srv/deepseek/store"', '"store"', "model.store: must be an absolute path"),
        ('"tiny-onprem"', '"../x"', "model.name: .* is not usable"),
        ('"onnxruntime"', '"abacus"', "engine.kind: .*'onnxruntime' or 'upstream' .it is 'abacus'"),
        ('["gateway-1"]', "[]", "server.allowed_clients: .*at least 1 item"),
        ('["gateway-1"]', '["gateway-1"', "not TOML"),
        ("${CREDENTIALS_DIRECTORY}/host.key", "${HOME_OF_KEYS}/k", "server.tls_key: .*HOME_OF"),
    ],
)
def test_each_mistake_is_named_by_its_place(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(SettingsError, match=message):
        parse(GOOD.replace(old, new), VARIABLES)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("step_tokens = 0", "engine.step_tokens: .*greater than or equal to 1"),
        ("request_timeout = 0", "engine.request_timeout: .*greater than 0"),
        ("request_timeout = nan", "engine.request_timeout: .*finite"),
        ("queue_per_key = -1", "engine.queue_per_key: .*greater than or equal to 0"),
        ('[keys]\nfile = "keys.json"', "keys.file: must be an absolute path"),
        ("[keys]", "keys.file: missing"),
        ('[keys]\nfile = "/k"\nkeys = []', "keys.keys: unknown setting"),
        ("[embeddings]", "embeddings.graph: missing"),
    ],
)
def test_mistakes_of_limits_keys_and_embeddings(more: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(f"{GOOD}\n{more}\n", VARIABLES)


def test_limits_and_keys_are_optional() -> None:
    settings = parse(GOOD, VARIABLES)
    assert (settings.keys, settings.embeddings) == (None, None)
    assert (settings.engine.queue_per_key, settings.engine.request_timeout) == (None, None)
    text = GOOD + 'step_tokens = 256\nrequest_timeout = 60\n[keys]\nfile = "/etc/keys.json"\n'
    settings = parse(text, VARIABLES)
    assert settings.engine.step_tokens == 256
    assert settings.keys is not None
    assert settings.keys.file == Path("/etc/keys.json")


def test_every_mistake_is_reported_at_once() -> None:
    text = GOOD.replace("port = 8000", "").replace('name = "tiny-onprem"', "")
    with pytest.raises(SettingsError, match=r"server\.port: missing; model\.name: missing"):
        parse(text, VARIABLES)


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read"):
        read(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"bad\.toml: cannot be read"):
        read(tmp_path / "bad.toml")
    (tmp_path / "empty.toml").touch()
    with pytest.raises(SettingsError, match=r"empty.toml: server: missing; model: missing"):
        read(tmp_path / "empty.toml")


values = st.one_of(
    st.integers(),
    st.booleans(),
    st.text("ab/${}._-\u00e9 ", max_size=12),
    st.lists(st.text("ab", max_size=3), max_size=3),
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


@given(line=st.integers(0, len(GOOD.splitlines()) - 1), value=values)
def test_any_other_value_is_accepted_or_refused_with_its_place(line: int, value: object) -> None:
    lines = GOOD.splitlines()
    name = lines[line].split(" = ")[0]
    if " = " in lines[line]:
        lines[line] = f"{name} = {toml(value)}"
    complaint = ""
    try:
        settings = parse("\n".join(lines), VARIABLES)
    except SettingsError as error:
        complaint = str(error)
    if complaint:
        assert name in complaint or "not TOML" in complaint
    else:
        assert 1 <= settings.server.port <= 65535


@given(text=st.text(max_size=80))
def test_any_text_is_refused_with_a_settings_error(text: str) -> None:
    with pytest.raises(SettingsError):
        parse(text, VARIABLES)
