# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a gateway that does not answer is restarted, and when not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.gateway import probe as gateway_probe
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.certificate import (
    CertificateError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11.objects import Pkcs11Error


class Gateway:
    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise CertificateError("PROBE", "alert 80.", "see the log.")
        return "fingerprint"


def there() -> None:
    """A token that can be used."""


def gone() -> None:
    raise Pkcs11Error("TOKEN_MISSING", "no token labelled 'x'.", "connect it.")


@pytest.mark.parametrize(
    ("failures", "token", "healthy", "restart", "said"),
    [
        (0, gone, True, False, ""),
        (1, gone, True, False, ""),
        (2, there, False, True, "started again"),
        (2, gone, False, False, "TOKEN_MISSING"),
    ],
)
def test_restarted_only_when_the_token_is_there(
    failures: int, token: Any, healthy: bool, restart: bool, said: str
) -> None:
    waits: list[int] = []
    gateway = Gateway(failures)
    outcome = gateway_probe.look(gateway, token, lambda: waits.append(1))
    assert (outcome.healthy, outcome.restart) == (healthy, restart)
    assert said in outcome.reason
    assert len(waits) == min(failures, 1)


@pytest.mark.parametrize(
    ("locked", "refusal", "code"),
    [
        (False, "a wrong PIN was entered since the last good login", "PIN_COUNT_LOW"),
        (False, "one more wrong PIN would lock the token", "PIN_COUNT_LOW"),
        (True, "the user PIN is locked", "PIN_LOCKED"),
    ],
)
def test_a_token_that_is_about_to_lock_is_left_alone(locked: bool, refusal: str, code: str) -> None:
    token = SimpleNamespace(unattended_refusal=refusal, pin_locked=locked, label="x")
    library: Any = SimpleNamespace(token=lambda label: token, path="/vendor.so")
    with pytest.raises(Pkcs11Error) as caught:
        gateway_probe.check_token(library, "x")
    assert caught.value.code == code
