# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data in awx/ as awx_configure.yml has it, for a site of an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.onprem.deepseek.plugins.module_utils.awx import specifications

ROOT = Path(__file__).resolve().parents[3]
DIGEST = "a" * 64
SITE: dict[str, Any] = {
    "awx_image": f"registry.example.org/deepseek/ee@sha256:{DIGEST}",
    "awx_project_url": "https://git.example.org/deepseek.git",
    "awx_project_branch": "0.1.0",
    "awx_inventory_url": "https://git.example.org/site.git",
    "awx_credential_inputs": {
        "deepseek hosts": {"username": "deploy", "ssh_key_data": "a key"},
        "deepseek repositories": {"username": "reader", "password": "a password"},
    },
}
# By key of what the filter takes, the variable of awx/.
VARIABLES = {
    name: f"awx_{name}"
    for name in (
        *("organizations", "credential_types", "credentials", "execution_environments"),
        *("projects", "inventories", "inventory_sources", "job_template_defaults"),
        *("job_templates", "workflows", "schedules"),
    )
}


class Loader(yaml.SafeLoader):
    """Reads texts that Ansible does not fill in as what they are."""


class Plain(str):
    """A text that is not filled in."""


Loader.add_constructor("!unsafe", lambda loader, node: Plain(loader.construct_scalar(node)))


def filled(value: Any, variables: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    if isinstance(value, str) and not isinstance(value, Plain) and "{{" in value:
        environment = NativeEnvironment()
        return environment.from_string(value).render(variables)
    return str(value) if isinstance(value, Plain) else value


def variables(**more: Any) -> dict[str, Any]:
    """Every variable of awx/, in the order in which the playbook reads its files."""
    options = specifications.of_playbooks()["awx_configure"]
    known = {name: one["default"] for name, one in options.items() if "default" in one}
    known.update(SITE, **more)
    for name in ("access", "sources", "job_templates", "workflows"):
        text = (ROOT / "awx" / f"{name}.yml").read_text()
        for key, value in Loader(text).get_single_data().items():
            known[key] = filled(value, known)
    return known


def data(**more: Any) -> dict[str, Any]:
    """What filter awx_configuration takes."""
    known = variables(**more)
    return {
        "prefix": known["awx_prefix"],
        "credential_inputs": known["awx_credential_inputs"],
        **{key: known[name] for key, name in VARIABLES.items()},
    }
