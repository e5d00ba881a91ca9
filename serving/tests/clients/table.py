"""Drive every client library against the service, and write down what came of it.

    PYTHONPATH=serving/tests:serving/tests/clients python -m table --write

What a run has shown goes to `recorded.json`, and docs/reference/clients.md is made of that. A test
fails when the page is not what this makes, and, with all clients, when a run shows something else.
Needs the environments that `make clients-table` makes before it runs this.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conversation import FEATURES
from matrix import CLIENTS, HERE, OFFLINE, RECORDED, ROOT, served

PAGE = ROOT / "docs" / "reference" / "clients.md"
WORKS = "works"
# characters of an error that are shown
NOTE = 120


def _cell(outcome: str | None, notes: list[str]) -> str:
    if outcome is None:
        return ""
    if outcome == WORKS:
        return "yes"
    note = " ".join(outcome.split()).replace("`", "'")[:NOTE]
    if note not in notes:
        notes.append(note)
    return f"({notes.index(note) + 1})"


def _through_gateway(entry: Mapping[str, Any]) -> str:
    """Whether the same works through a gateway, or what does not."""
    lost = [
        FEATURES[name]
        for name, outcome in entry["results"].items()
        if outcome == WORKS and entry["gateway"].get(name) != WORKS
    ]
    return f"not {', '.join(lost)}" if lost else "the same"


def made(recorded: Mapping[str, Any]) -> str:
    """The page, of what was recorded."""
    notes: list[str] = []
    columns = [*FEATURES.values(), "through a gateway"]
    lines = [f"| library | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for client in CLIENTS:
        entry = recorded["clients"][client.name]
        cells = [_cell(entry["results"].get(name), notes) for name in FEATURES]
        cells.append(_through_gateway(entry))
        lines.append(f"| {client.name} | {' | '.join(cells)} |")
    versions = [
        f"- {client.name}: "
        + ", ".join(
            f"`{name}` {version}"
            for name, version in recorded["clients"][client.name]["versions"].items()
        )
        for client in CLIENTS
    ]
    numbered = [f"{number}. `{note}`\n" for number, note in enumerate(notes, 1)]
    return (
        (HERE / "page.txt")
        .read_text(encoding="utf-8")
        .format(
            date=recorded["date"],
            table="\n".join(lines),
            notes="".join([*numbered, "\n"]) if notes else "",
            versions="\n".join(versions),
            offline=", ".join(f"`{name}={value}`" for name, value in OFFLINE.items()),
        )
    )


def run() -> dict[str, Any]:
    """Every client once at the service, and once at a gateway."""
    found: dict[str, dict[str, Any]] = {}
    for gateway in (False, True):
        with (
            tempfile.TemporaryDirectory() as directory,
            served(Path(directory), gateway=gateway) as site,
        ):
            for client in CLIENTS:
                outcome = site.drive(client, everywhere=False)
                entry = found.setdefault(client.name, {"versions": outcome.versions})
                entry["gateway" if gateway else "results"] = outcome.results
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return {"date": today.isoformat(), "clients": found}


def recorded() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="record a run, and make the page")
    if parser.parse_args().write:
        RECORDED.write_text(json.dumps(run(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        PAGE.write_text(made(recorded()), encoding="utf-8")
    else:
        print(made(recorded()), end="")


if __name__ == "__main__":
    main()
