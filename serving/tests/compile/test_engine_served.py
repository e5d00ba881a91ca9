"""Engines in the store, as the service and the smoke test take them: verified, run, or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import MODEL, VERSION, Authority, Token, command, settings_text, write_artifact
from support import write_release as write

from deepseek_serving.compile.builder import Request, build
from deepseek_serving.compile.golden import Agreement, check, compare, read_golden
from deepseek_serving.compile.target import Wish
from deepseek_serving.errors import EngineError, VerificationError
from deepseek_serving.runtime import Candidates
from deepseek_serving.runtime.engine import open_engine, verify_engine
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.trust.release import Release, verify_release

RTX = Wish("tensorrt_rtx", "8.0")


@dataclass(frozen=True)
class Place:
    """A store with an int8 release and its engines for the processor and for an A100."""

    store: Path
    public_key: Path
    cpu: str
    sm80: str

    @property
    def release(self) -> Release:
        return verify_release(self.store, MODEL, VERSION, self.public_key, "int8")

    def folder(self, key: str) -> Path:
        return self.store / "engine" / MODEL / key

    def open(self, key: str | None) -> Any:
        return open_engine(self.release, store=self.store, public_key=self.public_key, key=key)


@pytest.fixture(scope="module")
def signed(
    tmp_path_factory: pytest.TempPathFactory, prepared: dict[str, Path], token: Token
) -> Place:
    folder = tmp_path_factory.mktemp("engines")
    store = folder / "store"
    store.mkdir()
    graph = write(store, prepared["int8"], token, "int8")
    keys = []
    for name, wish in (("cpu", Wish("onnxruntime")), ("sm80", RTX)):
        source = prepared["int8"] / "decoder.onnx"
        build(Request(source, folder / name, wish))
        keys.append(write_artifact(store, folder / name, token, "engine", MODEL, [graph]))
    return Place(store, token.public_key, *keys)


@pytest.fixture
def place(signed: Place, tmp_path: Path) -> Place:
    """A copy that a test may spoil."""
    store = tmp_path / "store"
    shutil.copytree(signed.store, store)
    return Place(store, signed.public_key, signed.cpu, signed.sm80)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def smoke(
    place: Place, record: Path, *more: str, key: str = ""
) -> subprocess.CompletedProcess[str]:
    options = {
        "store": place.store,
        "model": MODEL,
        "version": VERSION,
        "precision": "int8",
        "key": key or place.cpu,
        "public-key": place.public_key,
        "record": record,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.run(
        [command("deepseek-engine"), "smoke", *arguments, *more],
        capture_output=True,
        text=True,
        check=False,
    )


# --- run ------------------------------------------------------------------------------------------


def test_the_engine_answers_as_its_graph_does(place: Place) -> None:
    tokens = list(range(20, 60))
    engine, graph = place.open(place.cpu), place.open(None)
    assert isinstance(engine, OnnxRuntimeEngine)
    for which in (engine, graph):
        which.prefill(1, tokens, 0)
    step = ([0, 21], [0, len(tokens)])
    assert engine.decode(*step).tokens[1].tolist() == graph.decode(*step).tokens[1].tolist()


def test_an_engine_for_another_processor_is_told_from_a_damaged_one(place: Place) -> None:
    with pytest.raises(EngineError, match=r"cudaError(InsufficientDriver|NoDevice)|this host has"):
        place.open(place.sm80)


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("engine.plan", r"engine\.plan: changed after signing"),
        ("key.json", r"key\.json: is the key of another engine"),
        ("golden.json", r"golden\.json: changed after signing"),
        ("model.sig", "model.sig"),
        ("manifest.json", "manifest.json"),
    ],
)
def test_a_flipped_bit_is_refused_before_anything_is_loaded(
    place: Place, file: str, message: str
) -> None:
    flip(place.folder(place.sm80) / file)
    with pytest.raises(VerificationError, match=message):
        place.open(place.sm80)


def test_an_engine_of_another_graph(
    place: Place, prepared: dict[str, Path], token: Token, tmp_path: Path
) -> None:
    build(Request(prepared["fp16"] / "decoder.onnx", tmp_path / "fp16", Wish("onnxruntime")))
    parents = [place.release.digest]
    key = write_artifact(place.store, tmp_path / "fp16", token, "engine", MODEL, parents)
    with pytest.raises(VerificationError, match=r"was built from a decoder\.onnx with SHA-256"):
        place.open(key)


def test_an_engine_that_names_another_parent(place: Place, token: Token, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.move(place.folder(place.cpu), kept)
    for name in ("manifest.json", "model.sig", "pieces.meta4"):
        (kept / name).unlink()
    write_artifact(place.store, kept, token, "engine", MODEL, ["1" * 64])
    with pytest.raises(VerificationError, match=r"parents is \['1111"):
        place.open(place.cpu)


@pytest.mark.parametrize("key", ["", "../../etc", "A" * 64, "0" * 63])
def test_a_key_that_is_none(place: Place, key: str) -> None:
    with pytest.raises(VerificationError, match=r"key of the engine .* is not a SHA-256"):
        verify_engine(place.store, place.release, key, place.public_key)


def test_the_service_does_not_start_on_a_changed_plan(
    place: Place, token: Token, authority: Authority, tmp_path: Path
) -> None:
    flip(place.folder(place.sm80) / "engine.plan")
    text = settings_text(
        place.store, token, authority, engine=f'threads = 1\nkey = "{place.sm80}"'
    ).replace("public_key =", 'precision = "int8"\npublic_key =')
    text = text.replace("${CREDENTIALS_DIRECTORY}", str(authority.folder))
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [command("deepseek-serve"), "--settings", str(tmp_path / "settings.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "engine.plan: changed after signing" in done.stderr


# --- smoke test -----------------------------------------------------------------------------------


def test_smoke_passes_once_and_is_not_asked_again(place: Place, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    looked = smoke(place, record, "--check")
    assert json.loads(looked.stdout)["changed"] is True
    assert not record.exists()
    first = json.loads(smoke(place, record).stdout)
    assert first["changed"] is True
    assert first["agreement"]["share"] >= 0.95
    assert first["agreement"]["positions"] == sum(
        len(s["input"]) - len(s["input"]) // 2 + 1
        for s in read_golden(place.folder(place.cpu) / "golden.json")
    )
    assert json.loads(smoke(place, record).stdout)["changed"] is False
    kept = json.loads(record.read_text())
    kept["asked"]["driver"] = "580.1"
    record.write_text(json.dumps(kept))
    assert json.loads(smoke(place, record).stdout)["changed"] is True


def test_smoke_refuses_bytes_that_were_changed(place: Place, tmp_path: Path) -> None:
    flip(place.folder(place.cpu) / "engine.onnx.data")
    done = smoke(place, tmp_path / "record.json")
    assert done.returncode == 1
    assert "engine.onnx.data: changed after signing" in done.stderr
    assert not (tmp_path / "record.json").exists()


class Wrong:
    """An engine that always finds the same token best."""

    slots, max_len = 2, 512

    def __init__(self, real: OnnxRuntimeEngine, logit: float) -> None:
        self._real, self._logit = real, logit

    def _spoil(self, found: Candidates) -> Candidates:
        found.tokens[:, 0] = 7
        found.values[:, 0] = self._logit
        return found

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        return self._spoil(self._real.prefill(slot, tokens, start))

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        return self._spoil(self._real.decode(tokens, lengths))

    def reset(self) -> None:
        self._real.reset()

    def clear(self, slot: int) -> None:
        self._real.clear(slot)

    def logits(self) -> Any:
        return self._real.logits()


def test_an_engine_that_answers_otherwise_must_not_serve(place: Place) -> None:
    golden = read_golden(place.folder(place.cpu) / "golden.json")
    agreement = compare(Wrong(place.open(place.cpu), 1.0), golden)
    assert agreement.share < 0.5
    with pytest.raises(EngineError, match="smoke test failed: here gives the golden best token"):
        check(agreement, 0.95, "here")


def test_a_logit_that_is_no_number_must_not_serve() -> None:
    agreement = Agreement(positions=2, agreed=2, difference=float("nan"))
    with pytest.raises(EngineError, match="must not serve"):
        check(agreement, 0.95, "here")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "encoder", "sequences": []}'])
def test_golden_answers_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "golden.json").write_text(text)
    with pytest.raises(EngineError, match="golden answers"):
        read_golden(tmp_path / "golden.json")
