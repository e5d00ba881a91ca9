"""The wheel, as playbooks/bundle_fetch.yml builds it: whole, and with the same bytes each time."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SERVING = Path(__file__).resolve().parents[1]
CODE = SERVING.parent / "plugins/module_utils/serving/own_wheel.py"


def load() -> ModuleType:
    """The builder, which is the collection's."""
    spec = importlib.util.spec_from_file_location("own_wheel", CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


own_wheel: Any = load()


@pytest.fixture
def buildable(tmp_path: Path) -> Path:
    package = tmp_path / "source" / "src" / "deepseek_serving"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "signing.py").write_text("def main(): ...\n")
    (package / "py.typed").write_text("")
    (package.parents[1] / "pyproject.toml").write_text(BUILDABLE)
    (package.parents[1] / "README.md").write_text("")
    return package.parents[1]


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the build backend from here, not from an index; all else is as it is."""
    really = subprocess.run

    def run(
        command: list[str], *, check: bool = False, **options: object
    ) -> subprocess.CompletedProcess[str]:
        if "install" in command:
            return subprocess.CompletedProcess(command, 0, "", "")
        return really(command, check=check, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(own_wheel.subprocess, "run", run)


def make(source: Path, directory: Path) -> Any:
    return own_wheel.build(source, directory, SERVING / "requirements-build.txt", sys.executable)


BUILDABLE = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "deepseek-serving"
version = "0.1.0"
[project.scripts]
deepseek-verify = "deepseek_serving.signing:main"
[tool.setuptools.packages.find]
where = ["src"]
[tool.setuptools.package-data]
deepseek_serving = ["py.typed"]
"""


@pytest.mark.usefixtures("no_index")
def test_a_linked_package_is_in_the_wheel_and_the_bytes_are_the_same_each_time(
    buildable: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "elsewhere" / "artifacts"
    shared.mkdir(parents=True)
    (shared / "names.py").write_text("NAME = 1\n")
    (buildable / "src/deepseek_serving/artifacts").symlink_to(shared)
    first = make(buildable, tmp_path / "one")
    assert first.problems == []
    with zipfile.ZipFile(tmp_path / "one" / first.name) as built:
        assert built.read("deepseek_serving/artifacts/names.py") == b"NAME = 1\n"
    # what was left beside the source, a mode and a time are not part of it
    (buildable / "build").mkdir()
    (buildable / "src/deepseek_serving.egg-info").mkdir()
    (buildable / "src/deepseek_serving/signing.py").chmod(0o600)
    os.utime(buildable / "src/deepseek_serving/signing.py", (0, 10**9))
    assert make(buildable, tmp_path / "two").sha256 == first.sha256


@pytest.mark.usefixtures("no_index")
def test_another_source_gives_another_wheel_in_place_of_the_first(
    buildable: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "package"
    first = make(buildable, folder)
    (buildable / "src/deepseek_serving/signing.py").write_text("def main(): return 1\n")
    stale = own_wheel.own_wheel(folder, buildable)
    assert stale.problems == ["deepseek_serving/signing.py differs from the source"]
    (folder / "deepseek_serving-0.0.9-py3-none-any.whl").write_bytes(b"earlier")
    second = make(buildable, folder)
    assert second.sha256 != first.sha256
    assert own_wheel.own_wheel(folder, buildable) == second
    assert [path.name for path in folder.iterdir()] == [second.name]


@pytest.mark.usefixtures("no_index")
def test_a_build_that_fails_leaves_what_was_there(buildable: Path, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    first = make(buildable, folder)
    (buildable / "pyproject.toml").write_text("[project\n")
    with pytest.raises(own_wheel.WheelError, match="wheel failed"):
        make(buildable, folder)
    assert [path.name for path in folder.iterdir()] == [first.name]


@pytest.mark.usefixtures("no_index")
def test_our_own_package_is_built_and_is_its_source(tmp_path: Path) -> None:
    """From a copy: nothing is left in the source."""
    before = sorted(SERVING.iterdir())
    wheel = make(SERVING, tmp_path / "package")
    assert wheel.problems == []
    assert wheel.requirement.startswith("deepseek-serving==")
    assert sorted(SERVING.iterdir()) == before
