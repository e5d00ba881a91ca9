"""The token that signs is found by its label."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from deepseek_serving.errors import SigningError
from deepseek_serving.trust import signing

PyKCS11 = pytest.importorskip("PyKCS11")


def library() -> SimpleNamespace:
    """A library with one token, whose label is padded as PKCS#11 wants it, and a blank one."""
    label = "deepseek-release".ljust(32)
    tokens = {
        3: SimpleNamespace(flags=PyKCS11.CKF_TOKEN_INITIALIZED, label=label),
        4: SimpleNamespace(flags=0, label=label),
    }
    return SimpleNamespace(
        load=lambda _path: None,
        getSlotList=lambda **_options: list(tokens),
        getTokenInfo=lambda slot: tokens[slot],
    )


@pytest.mark.parametrize("label", ["deepseek-release", "deepseek-release ", "deepseek-release\0"])
def test_a_token_is_found_with_and_without_its_padding(
    monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    monkeypatch.setattr(PyKCS11, "PyKCS11Lib", library)
    assert signing._slot(Path("/vendor.so"), label) == 3


@pytest.mark.parametrize("label", [" deepseek-release", "", "deepseek"])
def test_another_label_is_another_token(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    monkeypatch.setattr(PyKCS11, "PyKCS11Lib", library)
    with pytest.raises(SigningError, match="0 tokens"):
        signing._slot(Path("/vendor.so"), label)
