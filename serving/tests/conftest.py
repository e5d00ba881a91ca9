"""What the tests share: the exported checkpoint, a token, a signed store, a service."""

from __future__ import annotations

import locale
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from real_tokenizers import RealTokenizers
from support import (
    CHECKPOINT,
    Authority,
    Running,
    Texts,
    Token,
    serve,
    settings_text,
    write_artifact,
    write_release,
)
from waiting import http_client

from deepseek_serving.export.exporter import export
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare

# What programs say is compared, and files are UTF-8, whatever the machine's locale is.
os.environ["LC_ALL"] = "C.UTF-8"
locale.setlocale(locale.LC_ALL, "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models are tiny: threads that wait for each other take fifty times as long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How fast examples are made says something of the machine, and nothing of the code.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint, exported as deepseek-export does it."""
    out = tmp_path_factory.mktemp("graph") / "out"
    export(CHECKPOINT, out)
    return out


@pytest.fixture(scope="session")
def real_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> RealTokenizers:
    """Published tokenizers by their families, each loaded once."""
    return RealTokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Texts:
    """Every other trained conversation to calibrate with, the rest held out."""
    return Texts.write(tmp_path_factory.mktemp("texts"), graph)


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, graph: Path, texts: Texts
) -> dict[str, Path]:
    """The shipped checkpoint in every precision, as deepseek-prepare makes it."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, precision in PRECISIONS.items():
        calibration = texts.calibration if precision.activations else None
        options = Options(name, texts.held_out, calibration, threads=1)
        prepare(graph, folder / name, options)
    return {name: folder / name for name in PRECISIONS}


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """A SoftHSM2 token with an EC P-256 key in it; the module is loaded once per process."""
    return Token.create(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="session")
def signed_store(tmp_path_factory: pytest.TempPathFactory, graph: Path, token: Token) -> Path:
    """A store with one release, signed in the token by deepseek-sign."""
    store = tmp_path_factory.mktemp("store")
    write_release(store, graph, token)
    return store


@pytest.fixture(scope="session")
def checkpoint_store(tmp_path_factory: pytest.TempPathFactory, graph: Path, token: Token) -> Path:
    """A store whose release names a signed checkpoint."""
    store = tmp_path_factory.mktemp("checkpoint-store")
    digest = write_artifact(store, CHECKPOINT, token, kind="checkpoint")
    write_release(store, graph, token, checkpoint=digest)
    return store


@pytest.fixture
def store(signed_store: Path, tmp_path: Path) -> Path:
    """A copy of the signed store that a test may spoil."""
    copy = tmp_path / "store"
    shutil.copytree(signed_store, copy)
    return copy


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    signed_store: Path,
    token: Token,
    authority: Authority,
) -> Iterator[Running]:
    """deepseek-serve as a process, with two slots so that requests queue."""
    folder = tmp_path_factory.mktemp("service")
    text = settings_text(signed_store, token, authority, engine="slots = 2\nqueue = 2\nthreads = 2")
    with serve(folder, text, as_command=True) as running:
        yield running


@pytest.fixture
def client(service: Running, authority: Authority) -> Iterator[httpx.Client]:
    with http_client(service.url, verify=authority.client("gateway-1")) as client:
        yield client
