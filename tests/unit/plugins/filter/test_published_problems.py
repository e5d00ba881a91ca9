# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release host publishes is used only if it is the controller's own, and signed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ansible_collections.onprem.deepseek.plugins.filter import published_problems, unlocked_wheels

OWN = (
    "numpy==2.1 \\\n    --hash=sha256:" + "a" * 64 + "\nanyio==4.0 --hash=sha256:" + "b" * 64 + "\n"
)


class Site:
    """A release host and its key."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.lock = OWN
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
        }


def judge(published: dict[str, Any], own: str = OWN) -> list[str]:
    found: list[str] = published_problems.FilterModule().filters()["published_problems"](
        published, own
    )
    return found


def test_what_the_controller_has_is_taken() -> None:
    published = Site().published()
    assert judge(published) == []
    assert judge({"lock": OWN}) == []
    del published["lock"]
    assert judge(published, "") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lock: lock.replace("numpy==2.1", "numpy==2.2"), "it has 'numpy==2.2"),
        (lambda lock: lock.replace("a" * 64, "c" * 64), "it has '    --hash=sha256:ccc"),
        (lambda lock: lock + f"evil==1 --hash=sha256:{'d' * 64}\n", "it has 'evil==1 --hash"),
        (lambda lock: lock + "--extra-index-url https://x\n", "it has '--extra-index-url"),
        (lambda lock: lock + "# a comment\n", "it has '# a comment' where that has ''"),
        (lambda lock: lock.replace("\n", "\r\n"), "it has "),
        (lambda lock: lock[: lock.index("anyio")], "it has '' where that has 'anyio==4.0"),
        (lambda lock: "", "it has '' where that has 'numpy==2.1"),
    ],
)  # fmt: skip
def test_a_lock_that_is_not_the_controllers_is_refused(change: Any, problem: str) -> None:
    (found,) = judge({"lock": change(OWN)})
    assert found.startswith("the lock is not the controller's: ")
    assert problem in found


def test_a_list_that_another_key_signed_is_refused() -> None:
    published = Site().published()
    published["public_key"] = Site().published()["public_key"]
    assert "does not verify against the release public key" in judge(published)[0]


@pytest.mark.parametrize("signature", ["", "!", "AAAA"])
def test_a_list_without_a_signature_is_refused(signature: str) -> None:
    published = Site().published() | {"signature": signature}
    assert "the release signature" in judge(published)[0]


def test_a_signature_of_another_list_is_refused() -> None:
    published = Site().published()
    published["sums"] += f"{'e' * 64}  3.11/evil.whl\n"
    assert judge(published) == ["what the release key signed is not this list of sums, SHA256SUMS"]


def test_a_lock_that_is_not_in_the_list_is_refused() -> None:
    site = Site()
    site.sums = f"{'a' * 64}  3.11/numpy-2.1-py3-none-any.whl\n"
    assert judge(site.published()) == ["the sum of the lock is not in SHA256SUMS"]


def test_wheels_that_the_lock_does_not_name_are_named() -> None:
    unlocked = unlocked_wheels.FilterModule().filters()["unlocked_wheels"]
    sums = f"{'a' * 64}  numpy.whl\n{'f' * 64}  evil.whl\n"
    assert unlocked(sums, OWN) == ["evil.whl"]
    assert unlocked(f"{'b' * 64}  anyio.whl\n", OWN) == []
    assert unlocked(sums, "") == ["numpy.whl", "evil.whl"]
