# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wheel of the serving package is never taken with anything else than its source in it."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.filter.own_wheel import FilterModule
from ansible_collections.onprem.deepseek.plugins.module_utils.serving import own_wheel
from ansible_collections.onprem.deepseek.plugins.module_utils.serving.own_wheel import WheelError

SERVING = Path(__file__).resolve().parents[5] / "serving"
INFO = "deepseek_serving-0.1.0.dist-info"
POINTS = "[console_scripts]\ndeepseek-verify = deepseek_serving.signing:main\n"
PYPROJECT = """[project]
name = "deepseek-serving"
[project.scripts]
deepseek-verify = "deepseek_serving.signing:main"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "deepseek_serving"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "signing.py").write_text("def main(): ...\n")
    (package / "py.typed").write_text("")
    (package / "__pycache__" / "signing.pyc").write_bytes(b"stale")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return tmp_path


def wheel(source: Path, changes: dict[str, str | None] | None = None, twice: str = "") -> bytes:
    """The wheel of a source, with other contents of some files; None leaves one out."""
    files: dict[str, str | None] = {
        name: content.decode() for name, content in own_wheel.source_files(source).items()
    }
    files |= {
        f"{INFO}/METADATA": "Name: deepseek-serving\n",
        f"{INFO}/WHEEL": "Root-Is-Purelib: true\n",
        f"{INFO}/RECORD": "",
        f"{INFO}/entry_points.txt": POINTS,
        f"{INFO}/top_level.txt": "deepseek_serving\n",
    }
    files |= changes or {}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
        if twice:
            archive.writestr(twice, files[twice] or "")
    return packed.getvalue()


EVIL = "import os; os.system('id')\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"evil.pth": EVIL}, "evil.pth is not in the source"),
        ({"sitecustomize.py": EVIL}, "sitecustomize.py is not in the source"),
        ({"deepseek_serving/signing.py": EVIL}, "signing.py differs from the source"),
        ({"deepseek_serving/extra.py": EVIL}, "extra.py is not in the source"),
        ({"deepseek_serving/__pycache__/signing.pyc": EVIL}, "signing.pyc is not in the source"),
        ({"deepseek_serving/signing.py": None}, "signing.py of the source is missing"),
        ({"numpy/__init__.py": EVIL}, "numpy/__init__.py is not in the source"),
        ({"deepseek_serving-0.1.0.data/scripts/python": EVIL}, "scripts/python is not in"),
        ({"deepseek_serving-0.1.0.data/data/lib/x.pth": EVIL}, "x.pth is not in the source"),
        ({f"{INFO}/../evil.pth": EVIL}, "evil.pth is not in the source"),
        ({f"{INFO}/licenses/../../evil.pth": EVIL}, "evil.pth is not in the source"),
        ({f"{INFO}/entry_points.txt": POINTS + "pip = os:abort\n"}, "its commands are not those"),
        ({f"{INFO}/entry_points.txt": None}, "its commands are not those"),
        ({f"{INFO}/entry_points.txt": "no section"}, "cannot be read"),
    ],
)  # fmt: skip
def test_code_that_is_not_in_the_source_is_refused(
    source: Path, changes: dict[str, str | None], problem: str
) -> None:
    found = own_wheel.differences(wheel(source, changes), source)
    assert any(problem in sentence for sentence in found), found


def test_a_file_that_is_there_twice_is_refused(source: Path) -> None:
    content = wheel(source, twice="deepseek_serving/signing.py")
    assert own_wheel.differences(content, source) == ["deepseek_serving/signing.py is in it twice"]


def test_a_wheel_that_is_too_large_is_not_unpacked(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = wheel(source, {"deepseek_serving/signing.py": "0" * 100_000})
    monkeypatch.setattr(own_wheel, "MAX_BYTES", 50_000)
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deepseek_serving/signing.py", "0" * 100_000)
    assert "unpacks to more" in own_wheel.differences(packed.getvalue(), source)[0]
    assert "more than 50000 bytes" in own_wheel.differences(content, source)[0]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_wheel_is_refused(source: Path, content: bytes) -> None:
    assert own_wheel.differences(content, source) != []


NAME = "deepseek_serving-0.1.0-py3-none-any.whl"


def found_in(directory: Path, source: Path) -> dict[str, object]:
    result: dict[str, object] = FilterModule().filters()["own_wheel"](str(directory), str(source))
    return result


def test_the_wheel_in_a_directory_is_found_and_pinned(source: Path, tmp_path: Path) -> None:
    directory = tmp_path / "package"
    assert found_in(directory, source)["problems"] == ["there is no wheel of deepseek-serving"]
    directory.mkdir()
    content = wheel(source)
    (directory / NAME).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert found_in(directory, source) == {
        "name": NAME,
        "sha256": digest,
        "requirement": f"deepseek-serving==0.1.0 \\\n    --hash=sha256:{digest}\n",
        "problems": [],
    }
    (directory / "other.whl").write_bytes(content)
    (problem,) = found_in(directory, source)["problems"]  # type: ignore[misc]
    assert f"there is {NAME}, other.whl" in problem


@pytest.mark.parametrize(
    "name", ["deepseek_serving-0.1.0-cp311-cp311-linux_x86_64.whl", "evil-1-py3-none-any.whl"]
)
def test_a_wheel_that_does_not_serve_all_pythons_is_refused(
    source: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / name).write_bytes(wheel(source))
    assert found_in(tmp_path / "package", source)["problems"] != []


def test_our_own_source_can_be_compared() -> None:
    """The rules fit the package that this collection has."""
    points = "[console_scripts]\n" + "".join(
        f"{name} = {target}\n" for name, target in own_wheel.scripts(SERVING).items()
    )
    content = wheel(SERVING, {f"{INFO}/entry_points.txt": points})
    assert own_wheel.differences(content, SERVING) == []


def test_a_backend_that_does_not_fit_its_hashes_is_not_run(source: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("./backend.whl --hash=sha256:" + "0" * 64 + "\n")
    (tmp_path / "backend.whl").write_bytes(b"evil")
    with pytest.raises(WheelError, match="install failed"):
        own_wheel.build(source, tmp_path / "package", lock, sys.executable)


def test_links_of_the_collection_lead_to_what_is_in_it() -> None:
    """An installed collection can build the wheel: its archive keeps links and what is behind."""
    for path in sorted((SERVING / "src").rglob("*")):
        if path.is_symlink():
            assert not os.path.isabs(os.readlink(path)), path
            assert path.resolve().is_relative_to(SERVING.parent / "plugins"), path
