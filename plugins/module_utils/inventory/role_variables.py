# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The variables that this collection's roles take, from their argument specifications, and what is wrong with those that a site sets.

Ansible takes a variable that no role has without a word, so a misspelt one leaves the default in force. It runs on the controller only.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

from ..common.host_names import COMMON_NAME

ROLES = Path(__file__).resolve().parents[3] / "roles"
SITE = "deepseek_"
# Facts that roles leave on the hosts under names that begin as their variables do.
FACTS = ("preflight_host", "preflight_report")
RESULT = "_result"
_MAKE_KEYS = (
    "Leave it empty for the first rollout, and then make it as onprem.deepseek.next_steps shows"
)
# Files that a role reads on the controller, and how each is made.
CONTROLLER_FILES = {
    "deepseek_api_keys_file": _MAKE_KEYS,
    "inference_api_keys_file": _MAKE_KEYS,
    "gateway_client_ca_file": "Copy the certificate of the clients' CA there",
    "gateway_client_crl_file": "Copy the revocation lists of the clients' CA there",
}
# The common names of certificates that are not a host's name.
COMMON_NAMES = ("tls_ca_common_name", "tls_issuing_common_name", "tls_gateway_common_name")
_CHECKED = ("type", "choices", "elements")
# Whose values are not shown.
_SECRET = re.compile(r"key|pin|password|secret|token")
# How much of a name must be right to be taken for a misspelt one: of what follows the role's name, and of a whole name.
_NEAR, _NEAR_WHOLE = 0.8, 0.9


@dataclass(frozen=True)
class Known:
    """Role by role, the specification of each variable, and the defaults of all of them."""

    specs: Mapping[str, Mapping[str, Mapping[str, Any]]]
    defaults: Mapping[str, Any]

    @functools.cached_property
    def variables(self) -> dict[str, Mapping[str, Any]]:
        """The specification of each variable of all roles."""
        return {name: spec for options in self.specs.values() for name, spec in options.items()}


@functools.cache
def known(roles: Path = ROLES) -> Known:
    """Read what the roles of this collection take; raises OSError."""
    specs: dict[str, dict[str, Mapping[str, Any]]] = {}
    values: dict[str, Any] = {}
    for role in sorted(path for path in roles.iterdir() if path.is_dir()):
        given = read_yaml(role / "meta/argument_specs.yml").get("argument_specs", {})
        specs[role.name] = {
            name: spec
            for entry in given.values()
            for name, spec in (entry.get("options") or {}).items()
            if not name.startswith(SITE)
        }
        values.update(defaults(role.name, roles))
    return Known(specs, values)


@functools.cache
def defaults(role: str, roles: Path = ROLES) -> dict[str, Any]:
    """Read the variables that a role has by itself; raises OSError."""
    of_role = roles / role
    return {**read_yaml(of_role / "vars/main.yml"), **read_yaml(of_role / "defaults/main.yml")}


def entry_point(role: str, name: str, roles: Path = ROLES) -> dict[str, dict[str, Any]]:
    """Read the options of an entry point of a role, in their order; raises OSError."""
    specs = read_yaml(roles / role / "meta/argument_specs.yml")["argument_specs"]
    return dict(specs[name]["options"])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of a role; empty where the role is without such a file."""
    if not path.exists():
        return {}
    return yaml_load(path.read_text(encoding="utf-8")) or {}


def is_judged(name: str, all_known: Known) -> bool:
    """Whether a variable is one of this collection's, or looks like one."""
    if name.startswith(("_", "ansible_")) or name in FACTS or name.endswith(RESULT):
        return False
    return name.startswith(SITE) or role_of(name, all_known) != "" or near(name, all_known) != ""


def role_of(name: str, all_known: Known) -> str:
    """The role whose variables begin like this one, empty for none. Of two the longer name, as model_release is longer than model."""
    return max(
        (role for role in all_known.specs if name.startswith(f"{role}_")), key=len, default=""
    )


def near(name: str, all_known: Known) -> str:
    """The variable of a role that a name is most likely meant to be; empty where it is one, or like none."""
    if name in all_known.variables or name.startswith(SITE) or "_" not in name:
        return ""
    role, lower = role_of(name, all_known), name.lower()
    if role:
        rest = {one[len(role) :]: one for one in all_known.specs[role]}
        found = difflib.get_close_matches(lower[len(role) :], rest, n=1, cutoff=_NEAR)
        return rest[found[0]] if found else ""
    found = difflib.get_close_matches(lower, all_known.variables, n=1, cutoff=_NEAR_WHOLE)
    return found[0] if found else ""


# Whether a value is what an option's specification says: its name, its value, its type, choices and elements.
Valid = Callable[[str, Any, Mapping[str, Any]], bool]


def problems(
    values: Mapping[str, Any], all_known: Known, is_valid: Valid
) -> Iterator[dict[str, str]]:
    """Find the roles' variables that are misspelt, or are not what their specification says, and files that are not on the controller."""
    for name, value in values.items():
        spec = all_known.variables.get(name)
        meant = near(name, all_known)
        if name in CONTROLLER_FILES:
            yield from _file_problems(name, value)
        elif spec is not None:
            checked = {key: spec[key] for key in _CHECKED if spec.get(key) is not None}
            if value is not None and not is_valid(name, value, checked):
                said = "not of its type" if _SECRET.search(name) else repr(value)
                yield _problem(name, f"it is {said}", f"It must be {_rule(spec)}")
        elif meant:
            yield _problem(
                name,
                "no role has a variable of this name, so it has no effect",
                f"Did you mean {meant}",
            )


def common_name_problems(values: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Find common names that are longer than a certificate takes (RFC 5280, appendix A, ub-common-name)."""
    for name in COMMON_NAMES:
        length = len(str(values.get(name) or ""))
        if length > COMMON_NAME:
            yield _problem(
                name,
                f"it has {length} characters, and a certificate's common name has {COMMON_NAME} at most",
                "Set it to a shorter one, or shorten deepseek_service_name",
            )


def _file_problems(name: str, value: Any) -> Iterator[dict[str, str]]:
    path = os.path.expanduser(str(value or ""))
    if not path:
        return
    what = ""
    if not os.path.exists(path):
        what = "is not on the controller"
    elif not os.path.isfile(path):
        what = "is no file"
    elif not os.access(path, os.R_OK):
        what = "cannot be read by the user of this run"
    elif not os.path.getsize(path):
        what = "is empty"
    if what:
        remedy = f"{CONTROLLER_FILES[name]}, or set {name} to ''"
        yield _problem(name, f"it is {path}, which {what}", remedy)


def _problem(name: str, what: str, remedy: str) -> dict[str, str]:
    return {"name": name, "what": what, "remedy": remedy}


def _rule(spec: Mapping[str, Any]) -> str:
    if spec.get("choices"):
        return f"one of {', '.join(map(str, spec['choices']))}"
    of = f" of {spec['elements']}" if spec.get("elements") else ""
    return f"{spec.get('type', 'str')}{of}"
