"""The examples of docs/how-to/clients.md, as a program reads them.

A comment before each fenced block says what it is: `environment` (variables for all that follow),
`file: NAME` (for the next that is run), or `run: ENVIRONMENT`, where that is one of `matrix.py` or
`shell`; then `certificate` if a client certificate is wanted, and `says: TEXT` if that is in its
output instead of the model's greeting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversation import GREETING
from matrix import ROOT, interpreter, modules

PAGE = ROOT / "docs" / "how-to" / "clients.md"
FENCE = re.compile(r"^(?:<!-- (.+?) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPORT = re.compile(r"^export (\w+)=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A block to run, in `where`, beside `files` that came before it."""

    where: str
    text: str
    says: str
    certificate: bool
    files: Mapping[str, str]
    place: int

    def command(self, folder: Path) -> list[str]:
        """Write down what it needs, and say how it is run."""
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.where == "shell":
            return ["bash", "-euc", self.text]
        if self.where == "node":
            path = modules() / f"example_{self.place}.mjs"
            path.write_text(self.text, encoding="utf-8")
            return ["node", str(path)]
        path = folder / "example.py"
        path.write_text(self.text, encoding="utf-8")
        return [interpreter(self.where), str(path)]


@dataclass(frozen=True)
class Page:
    environment: Mapping[str, str]
    examples: tuple[Example, ...]


def read(told: Mapping[str, Any]) -> Page:
    """The page's examples for the service that is described in `told`, see clients_site.py."""
    environment: dict[str, str] = {}
    files: dict[str, str] = {}
    examples = []
    for place, (mark, _language, text) in enumerate(FENCE.findall(PAGE.read_text("utf-8"))):
        what, *more = mark.split("; ")
        kind, _colon, rest = what.partition(": ")
        certificate = rest.endswith(", certificate")
        text = replaced(text, told, certificate=certificate)
        if kind == "environment":
            environment.update(EXPORT.findall(text))
        elif kind == "file":
            files[rest] = text
        else:
            assert kind == "run", f"the block does not say how it is run: {text}"
            says = more[0].removeprefix("says: ") if more else GREETING
            where = rest.removesuffix(", certificate")
            examples.append(Example(where, text, says, certificate, files, place))
            files = {}
    return Page(environment, tuple(examples))


def replaced(text: str, told: Mapping[str, Any], *, certificate: bool) -> str:
    """Names of the page as names of the service."""
    names = {
        "https://deepseek.hospital.example/v1": told["mutual_url" if certificate else "base_url"],
        "dsk-0123456789ab-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG": told["key"],
        "/etc/ssl/hospital/ca.pem": told["ca"],
        "/etc/ssl/hospital/ward-3.pem": told["certificate"],
        "/etc/ssl/hospital/ward-3.key": told["key_file"],
    }
    for name, real in names.items():
        text = text.replace(name, real)
    return re.sub(r"""(["'])deepseek\1""", f'"{told["model"]}"', text)
