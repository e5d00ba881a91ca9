# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release host publishes is used only if it is the controller's own, and signed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.onprem.deepseek.plugins.filter import (
    locked_for,
    published_problems,
    unlocked_wheels,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.serving import own_wheel

INFO = "deepseek_serving-0.1.0.dist-info"
POINTS = "[console_scripts]\ndeepseek-verify = deepseek_serving.signing:main\n"
OWN = (
    "numpy==2.1 \\\n    --hash=sha256:" + "a" * 64 + "\nanyio==4.0 --hash=sha256:" + "b" * 64 + "\n"
)
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


def lock_with(content: bytes, package: str = "deepseek-serving") -> str:
    return OWN + f"{package}==0.1.0 \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


class Site:
    """A release host and its key."""

    def __init__(self, source: Path, content: bytes) -> None:
        self.source = source
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.lock = lock_with(content)
        self.wheels = [base64.b64encode(content).decode()]
        digest = hashlib.sha256(self.lock.encode()).hexdigest()
        self.sums = f"{'a' * 64}  3.11/numpy.whl\n{digest}  3.11/requirements.lock\n"

    def published(self) -> dict[str, Any]:
        document = json.dumps({"sha256": hashlib.sha256(self.sums.encode()).hexdigest()})
        signature = self.key.sign(document.encode(), ec.ECDSA(hashes.SHA256()))
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "lock": self.lock,
            "sums": self.sums,
            "document": document,
            "signature": base64.b64encode(signature).decode() + "\n",
            "public_key": public.decode(),
            "wheels": self.wheels,
        }


def judge(published: dict[str, Any], source: Path, own: str = OWN) -> list[str]:
    found: list[str] = published_problems.FilterModule().filters()["published_problems"](
        published, own, str(source)
    )
    return found


def test_what_the_controller_has_is_taken(source: Path) -> None:
    site = Site(source, wheel(source))
    assert judge(site.published(), source) == []
    assert judge({"lock": site.lock}, source) == []
    assert judge(site.published(), source, OWN.replace("\n", "\r\n")) == [], "a lock with CRLF"


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
    found = judge(Site(source, wheel(source, changes)).published(), source)
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
    assert judge(Site(source, content).published(), source) != []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lock: lock.replace("numpy==2.1", "numpy==2.2"), "numpy==2.1 is not in it"),
        (lambda lock: lock.replace("a" * 64, "c" * 64), "numpy==2.1 is not in it"),
        (lambda lock: lock + f"evil==1 --hash=sha256:{'d' * 64}\n", ", evil==1"),
        (lambda lock: lock + "--extra-index-url https://x\n", "not a requirement pinned"),
        (lambda lock: lock + "evil @ https://x/evil.whl\n", "not a requirement pinned"),
        (lambda lock: lock.replace("k-serving", "k-serving2"), "and adds deepseek-serving2"),
        (lambda lock: OWN, "and adds nothing"),
    ],
)  # fmt: skip
def test_a_lock_that_is_not_the_controllers_is_refused(
    source: Path, change: Any, problem: str
) -> None:
    site = Site(source, wheel(source))
    site.lock = change(site.lock)
    (found,) = judge({"lock": site.lock}, source)
    assert found.startswith("the lock is not the controller's: ")
    assert problem in found


def test_a_list_that_another_key_signed_is_refused(source: Path) -> None:
    site = Site(source, wheel(source))
    published = site.published()
    published["public_key"] = Site(source, wheel(source)).published()["public_key"]
    assert "does not verify against the release public key" in judge(published, source)[0]


@pytest.mark.parametrize("signature", ["", "!", "AAAA"])
def test_a_list_without_a_signature_is_refused(source: Path, signature: str) -> None:
    published = Site(source, wheel(source)).published() | {"signature": signature}
    assert "the release signature" in judge(published, source)[0]


def test_a_signature_of_another_list_is_refused(source: Path) -> None:
    published = Site(source, wheel(source)).published()
    published["sums"] += f"{'e' * 64}  3.11/evil.whl\n"
    assert judge(published, source) == [
        "what the release key signed is not this list of sums, SHA256SUMS"
    ]


def test_a_lock_that_is_not_in_the_list_is_refused(source: Path) -> None:
    site = Site(source, wheel(source))
    site.sums = f"{'a' * 64}  3.11/numpy-2.1-py3-none-any.whl\n"
    assert judge(site.published(), source) == ["the sum of the lock is not in SHA256SUMS"]


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_one_wheel_of_ours(source: Path, count: int) -> None:
    site = Site(source, wheel(source))
    site.wheels *= count
    assert f"there are {count} wheels of deepseek-serving, not one" in judge(
        site.published(), source
    )


def test_a_wheel_that_the_lock_does_not_name_is_refused(source: Path) -> None:
    site = Site(source, wheel(source))
    site.wheels = [base64.b64encode(wheel(source, {f"{INFO}/METADATA": "x"})).decode()]
    assert judge(site.published(), source) == [
        "the wheel of deepseek-serving is not the one that the lock names"
    ]


def test_our_own_source_can_be_compared() -> None:
    """The rules fit the package that this collection has."""
    serving = Path(__file__).resolve().parents[4] / "serving"
    points = "[console_scripts]\n" + "".join(
        f"{name} = {target}\n" for name, target in own_wheel.scripts(serving).items()
    )
    content = wheel(serving, {f"{INFO}/entry_points.txt": points})
    assert own_wheel.differences(content, serving) == []


def test_wheels_that_the_lock_does_not_name_are_named() -> None:
    unlocked = unlocked_wheels.FilterModule().filters()["unlocked_wheels"]
    sums = f"{'a' * 64}  numpy.whl\n{'f' * 64}  evil.whl\n"
    assert unlocked(sums, OWN) == ["evil.whl"]
    assert unlocked(f"{'b' * 64}  anyio.whl\n", OWN) == []
    with pytest.raises(AnsibleFilterError, match="not a requirement pinned"):
        unlocked(sums, "numpy")


def test_a_lock_for_one_version_can_name_some_packages_only() -> None:
    only = locked_for.FilterModule().filters()["locked_for"](OWN, "3.11", only=["anyio"])
    assert only == "anyio==4.0 \\\n    --hash=sha256:" + "b" * 64 + "\n"
