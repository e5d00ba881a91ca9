# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the model through the gateway, and print what stands behind its answer.

``demo.py FACTS [TIMINGS]``: FACTS is what ``demo.yml`` wrote, TIMINGS what the callback
``role_minutes`` wrote for the rollout. The exit status is 0 only if the answer came and everything
shown is as it must be.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
from cryptography import x509
from rich.console import Console
from rich.table import Table

QUESTION = "What are you?"


def verified_context(facts: dict[str, Any]) -> ssl.SSLContext:
    """Trust the site's CA and nothing else."""
    return ssl.create_default_context(cadata=facts["ca"])


def ask(facts: dict[str, Any], console: Console) -> str:
    """Ask by the service's name, print the answer as it comes, and give its release."""

    def by_name(request: Any) -> None:
        # The name need not be in this machine's DNS: TLS asks for it and checks it all the same.
        request.extensions["sni_hostname"] = facts["service_name"]

    client = openai.OpenAI(
        base_url=facts["url"],
        api_key="none",
        http_client=openai.DefaultHttpxClient(
            verify=verified_context(facts), trust_env=False, event_hooks={"request": [by_name]}
        ),
    )
    console.print(f"[bold]Question[/]  {QUESTION}\n[bold]Answer[/]    ", end="")
    answer = client.chat.completions.with_streaming_response.create(
        model=facts["model"],
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        temperature=0,
    )
    words = 0
    with answer as response:
        for chunk in response.parse():
            if chunk.choices and (text := chunk.choices[0].delta.content):
                console.print(text, end="", markup=False, highlight=False)
                words += 1
        release: str = response.headers.get("x-deepseek-release", "")
    console.print()
    if not words:
        raise SystemExit("the model gave no answer")
    return release


def server_certificate(facts: dict[str, Any]) -> tuple[x509.Certificate, str]:
    """Shake hands with the gateway; gives its certificate and the TLS version."""
    url = urlsplit(facts["url"])
    with (
        socket.create_connection((url.hostname, url.port or 443), timeout=10) as plain,
        verified_context(facts).wrap_socket(plain, server_hostname=facts["service_name"]) as secure,
    ):
        der, version = secure.getpeercert(binary_form=True), secure.version()
    if der is None or version is None:
        raise SystemExit("the gateway showed no certificate")
    return x509.load_der_x509_certificate(der), version


def grid(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """Print names and values under a title."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console.print()
    console.print(table)


def show_chain(facts: dict[str, Any], console: Console) -> None:
    """Print the certificates, and where the private key is."""
    certificate, version = server_certificate(facts)
    root, issuing = (
        x509.load_pem_x509_certificate(facts[name].encode()) for name in ("ca", "issuing")
    )
    key, token = facts["key"], facts["token"]
    attributes = key["attributes"]
    place = f"in token '{token['label']}' ({token['manufacturer']}, serial {token['serial']})"
    rows = [
        ("server", f"{describe(certificate)}, {version}"),
        ("signed by", describe(issuing)),
        ("signed by", describe(root)),
        ("private key", f"{key['kind']}, object '{key['label']}' {place} on {facts['gateway']}"),
        ("made there", yes(attributes["local"])),
        ("can leave it", yes(attributes["extractable"] or not attributes["never_extractable"])),
        ("signs for it", yes(all(facts["proof"].values()))),
    ]
    grid(console, "Certificate chain, as the client saw it", rows)


def describe(certificate: x509.Certificate) -> str:
    """Give the subject and the last day."""
    last = certificate.not_valid_after_utc.date().isoformat()
    return f"{certificate.subject.rfc4514_string()}, until {last}"


def show_release(facts: dict[str, Any], served: str, console: Console) -> None:
    """Print what is served, and its copies."""
    release = facts["release"]
    graph = release["graphs"]["fp32"]
    grid(console, "Release served", [
        ("answer from", served),
        ("graph", f"sha256:{graph}"),
        ("checkpoint", f"sha256:{release['checkpoint']}"),
        ("signature", release["signature"]),
    ])  # fmt: skip
    table = Table(title="\nCopies of the model", title_justify="left", title_style="bold", box=None)
    for name in ("host", "bytes", "files", "signature", "every byte verified"):
        table.add_column(name, justify="right" if name in ("bytes", "files") else "left")
    for host, copy in facts["copies"].items():
        files = sum(artifact["files"] for artifact in copy["artifacts"])
        table.add_row(
            host, f"{copy['size']:,}", str(files), copy["signature"], yes(copy["verified"])
        )
    console.print(table)


def show_minutes(timings: dict[str, Any], console: Console) -> None:
    """Print where the rollout's time went, and what it changed."""
    rows = sorted(timings["roles"].items(), key=lambda item: -item[1])
    grid(console, "Minutes per role", [
        *((role, f"{seconds / 60:5.1f}") for role, seconds in rows),
        ("in all", f"{timings['total'] / 60:5.1f}"),
    ])  # fmt: skip
    changed = timings["changed"]
    console.print(
        f"\n[bold]changed={changed}[/]", end="" if changed else ": everything was as it must be.\n"
    )
    if changed:
        console.print(". Run it again: it will change nothing.")


def yes(value: bool) -> str:
    """Give the word for a truth value."""
    return "yes" if value else "no"


def wrong(facts: dict[str, Any], served: str) -> list[str]:
    """Everything shown that is not as it must be."""
    release, attributes = facts["release"], facts["key"]["attributes"]
    expected = f"{release['model']}/{release['version']}@{release['graphs']['fp32'][:12]}"
    found = {
        f"the answer came from {served or 'nowhere'}, not from {expected}": served != expected,
        "the gateway's key can leave its token": attributes["extractable"]
        or not attributes["never_extractable"],
        "the gateway's key does not sign for its certificate": not all(facts["proof"].values()),
        "a copy of the model is not verified": not all(
            copy["verified"] for copy in facts["copies"].values()
        ),
    }
    return [text for text, is_wrong in found.items() if is_wrong]


def main() -> int:
    """Entry point."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    facts = json.loads(Path(sys.argv[1]).read_text())
    console = Console(width=100 if not sys.stdout.isatty() else None)
    console.rule("onprem.deepseek")
    served = ask(facts, console)
    show_chain(facts, console)
    show_release(facts, served, console)
    if len(sys.argv) == 3:
        show_minutes(json.loads(Path(sys.argv[2]).read_text()), console)
    problems = wrong(facts, served)
    for problem in problems:
        console.print(f"[red]WRONG[/] {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
