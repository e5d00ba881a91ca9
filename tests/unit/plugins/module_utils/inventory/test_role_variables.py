# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of all roles are known by name, and a misspelt one is not taken for granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.lookup.site_variables import _is_valid
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import role_variables

KNOWN = role_variables.known()
NAMES = sorted(KNOWN.variables)


def found(**values: Any) -> list[str]:
    return [
        f"{one['name']}: {one['what']}. {one['remedy']}"
        for one in role_variables.problems(values, KNOWN, _is_valid)
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gateway_max_conections", "gateway_max_connections"),
        ("model_release_quorom", "model_release_quorum"),
        ("Tls_dir", "tls_dir"),
        ("gatway_max_connections", "gateway_max_connections"),
        ("preflight_netwrok", "preflight_network"),
        ("inference_api_key_file", "inference_api_keys_file"),
        ("nvidia_drivr_version", "nvidia_driver_version"),
    ],
)
def test_a_misspelt_variable_of_a_role_is_named_with_what_was_meant(name: str, meant: str) -> None:
    assert role_variables.is_judged(name, KNOWN)
    assert found(**{name: 1}) == [
        f"{name}: no role has a variable of this name, so it has no effect. Did you mean {meant}"
    ]


@pytest.mark.parametrize("name", ["gateway_room", "rack", "inference_owner_mail", "lab_octet"])
def test_a_sites_own_variables_are_its_own(name: str) -> None:
    assert found(**{name: 1}) == []


@given(st.sampled_from(NAMES))
def test_every_variable_of_a_role_is_known(name: str) -> None:
    assert role_variables.is_judged(name, KNOWN)
    assert role_variables.near(name, KNOWN) == ""


@given(st.sampled_from(NAMES), st.data())
def test_a_letter_that_is_left_out_is_noticed(name: str, data: st.DataObject) -> None:
    role = role_variables.role_of(name, KNOWN)
    place = data.draw(st.integers(len(role) + 2, len(name) - 1)) if len(name) > len(role) + 6 else 0
    wrong = name[:place] + name[place + 1 :]
    if place and wrong not in KNOWN.variables:
        assert role_variables.near(wrong, KNOWN)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("gateway_port", "many", "it is 'many'. It must be int"),
        ("preflight_network", "some", "it is 'some'. It must be one of off, latency, full"),
        ("gateway_verify_api_key", ["secret-word"], ""),
        ("gateway_port", None, None),
        ("gateway_port", "443", None),
    ],
)
def test_values_that_are_not_what_the_specification_says(
    name: str, value: Any, says: str | None
) -> None:
    told = found(**{name: value})
    assert "secret-word" not in str(told)
    if says is None:
        assert told == []
    elif says:
        assert told == [f"{name}: {says}"]


def test_files_on_the_controller(tmp_path: Path) -> None:
    there, empty = tmp_path / "there", tmp_path / "empty"
    there.write_text("x")
    empty.write_text("")
    cases = {
        "/nope": "is not on the controller",
        str(tmp_path): "is no file",
        str(empty): "is empty",
        str(there): "",
        "": "",
    }
    for name in role_variables.CONTROLLER_FILES:
        for path, says in cases.items():
            told = found(**{name: path})
            assert len(told) == bool(says), (name, path)
            assert says in "".join(told)


def test_common_names_are_as_short_as_certificates_want() -> None:
    names = {"tls_ca_common_name": "n" * 65, "tls_issuing_common_name": "n" * 64}
    (told,) = role_variables.common_name_problems(names)
    assert told["name"] == "tls_ca_common_name"
    assert told["what"] == "it has 65 characters, and a certificate's common name has 64 at most"
