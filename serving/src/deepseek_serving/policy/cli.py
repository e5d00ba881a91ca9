"""deepseek-key: make, list and revoke API keys."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from pathlib import Path

from deepseek_serving.cli import run
from deepseek_serving.policy import keys


def _moment(text: str) -> datetime:
    """A day, which ends the key when it begins, or a moment; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _new(options: argparse.Namespace) -> None:
    sent = keys.add(
        options.file,
        options.name,
        scopes=options.scope or keys.SCOPES,
        models=options.models,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        expires=options.expires,
    )
    # the one time that it is shown
    print(sent)


def _list(options: argparse.Namespace) -> None:
    for key in keys.read(options.file).values():
        limits = (
            f"{key.requests_per_minute or '-'} requests/min",
            f"{key.tokens_per_minute or '-'} tokens/min",
        )
        until = f"until {key.expires.isoformat()}" if key.expires else "no end"
        models = [] if key.models is None else [f"models {','.join(key.models)}"]
        parts = (key.id, key.name, ",".join(key.scopes), *models, *limits, until)
        print("  ".join((*parts, *(["expired"] if key.expired else []))))


def _revoke(options: argparse.Namespace) -> None:
    revoked = keys.revoke(options.file, options.id)
    print(f"revoked {revoked.id} ({revoked.name})")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-key", description="Make, list and revoke API keys of deepseek-serve."
    )
    parser.add_argument("--file", required=True, type=Path, help="the settings' keys.file")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a key and print it, this once")
    new.add_argument("--name", required=True, help="whose it is")
    new.add_argument(
        "--scope", action="append", choices=keys.SCOPES, help="may be repeated; default: all"
    )
    new.add_argument(
        "--models", nargs="+", metavar="MODEL", help="the models that it may use; default: all"
    )
    new.add_argument("--requests-per-minute", type=int, metavar="N")
    new.add_argument("--tokens-per-minute", type=int, metavar="N")
    new.add_argument("--expires", type=_moment, metavar="DATE", help="as 2027-01-31")
    new.set_defaults(action=_new)
    listing = commands.add_parser("list", help="the keys, without what could be used as one")
    listing.set_defaults(action=_list)
    revoke = commands.add_parser("revoke", help="take a key out")
    revoke.add_argument("id", help="as deepseek-key list shows it")
    revoke.set_defaults(action=_revoke)
    options = parser.parse_args(argv)
    return run("deepseek-key", lambda: options.action(options))
