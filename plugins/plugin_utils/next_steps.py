# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does once a rollout is complete, as commands that work as they are pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
# On the inference host that keys are made on; it has their hashes alone.
KEYS = "/root/deepseek-keys.json"
QUESTION = "What are you?"
WIDTH = 12


@dataclass(frozen=True)
class Site:
    """What the commands are made of: site variables, names of hosts of the inventory, and files on the controller.

    ``keys_file`` is empty without API keys; ``client_certificates`` is whether clients need one.
    """

    service_name: str
    address: str
    port: int
    model: str
    tls_dir: str
    venv_dir: str
    gateway: str
    inference: str
    keys_file: str
    client_certificates: bool
    inventories: Sequence[str]


def lines(site: Site) -> list[str]:
    """The text. Commands begin at the margin, each in a line of its own, and texts about them do not."""
    return [
        "The rollout is complete. What comes next:",
        *_address(site),
        *_question(site),
        *_keys(site),
        *_pages(site),
        *_daily(site),
    ]


def _url(site: Site) -> str:
    return f"https://{site.service_name}" + ("" if site.port == 443 else f":{site.port}")


def _said(subject: str, text: str) -> str:
    return f"  {subject:<{WIDTH}}{text}"


def _inventory(site: Site) -> list[str]:
    return [word for source in site.inventories for word in ("-i", source)]


def _on(site: Site, host: str, module: str, arguments: str) -> str:
    """A task for one host, as root."""
    command = ["ansible", host, *_inventory(site), "--become", "-m", module, "-a", arguments]
    return shlex.join(command)


def _playbook(site: Site, name: str) -> str:
    return shlex.join(["ansible-playbook", *_inventory(site), f"onprem.deepseek.{name}"])


def _fetch(site: Site, host: str, source: str, to: str) -> str:
    arguments = f"src={source} dest={shlex.quote(to)} flat=true"
    return _on(site, host, "ansible.builtin.fetch", arguments)


def _address(site: Site) -> Iterator[str]:
    yield ""
    yield _said("address", f"{_url(site)}/v1, on {site.gateway} ({site.address})")
    yield _said("CA file", "ca.pem, the root that clients must trust; to get it here:")
    yield _fetch(site, site.gateway, f"{site.tls_dir}/ca.pem", "./ca.pem")


def _curl(site: Site) -> list[str]:
    # The name need not be in the DNS of this machine yet.
    known = ["--resolve", f"{site.service_name}:{site.port}:{site.address}"]
    certificate = ["--cert", "client.pem", "--key", "client.key"]
    return [
        *("curl", "--cacert", "ca.pem", *known),
        *(certificate if site.client_certificates else []),
    ]


def _question(site: Site) -> Iterator[str]:
    body = {
        "model": site.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 64,
    }
    question = [f"{_url(site)}/v1/chat/completions", "-H", "content-type: application/json"]
    command = shlex.join([*_curl(site), *question, "-d", json.dumps(body)])
    yield ""
    yield _said("question", "without --resolve once clients have the name in their DNS:")
    if site.client_certificates:
        yield _said(
            "", "client.pem and client.key are the client certificate that the gateway asks for"
        )
    if site.keys_file:
        yield "read -rsp 'API key: ' KEY"
        command += ' -H "authorization: Bearer $KEY"'
    yield command


def _keys(site: Site) -> Iterator[str]:
    key = [f"{site.venv_dir}/bin/deepseek-key", "--file", KEYS, "new", "--name", "ward-3"]
    here = site.keys_file or "./deepseek-keys.json"
    yield ""
    if site.keys_file:
        yield _said("API keys", f"in {here}; to add one, which is printed this once:")
        arguments = f"src={shlex.quote(here)} dest={KEYS} mode=0600"
        yield _on(site, site.inference, "ansible.builtin.copy", arguments)
    else:
        yield _said("API keys", "none are asked for; to make one, which is printed this once:")
    yield _on(site, site.inference, "ansible.builtin.command", shlex.join(key))
    yield _fetch(site, site.inference, KEYS, here)
    if not site.keys_file:
        yield _said("", "and name that file in the inventory, as deepseek_api_keys_file")
    yield _playbook(site, "site")


def _pages(site: Site) -> Iterator[str]:
    yield ""
    yield _said(
        "pages", f"{DOCS / 'index.md'}; the API: {DOCS / 'reference/api.md'}, and of this release:"
    )
    yield shlex.join([*_curl(site), f"{_url(site)}/openapi.json"])


def _daily(site: Site) -> Iterator[str]:
    yield ""
    yield _said(
        "every day", "does every layer work, are all copies whole, does a certificate end soon:"
    )
    for name in ("verify", "storage_health", "tls_renew"):
        yield _playbook(site, name)
