"""deepseek-sign and deepseek-verify."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepseek_serving.cli import run
from deepseek_serving.trust.release import verify_artifact
from deepseek_serving.trust.signing import sign


def sign_main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-sign", description="Sign a directory with a key that stays in its token."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--token", required=True, metavar="LABEL")
    parser.add_argument("--key", required=True, metavar="LABEL")
    parser.add_argument("--module", required=True, type=Path, help="PKCS#11 module, a path")
    parser.add_argument("--pin-file", required=True, type=Path)
    options = parser.parse_args(argv)
    return run(
        "deepseek-sign",
        lambda: sign(
            options.directory,
            token=options.token,
            key=options.key,
            module=options.module,
            pin_file=options.pin_file,
        ),
    )


def verify_main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-verify", description="Check an artifact's manifest, files and signature."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--public-key", required=True, type=Path, help="PEM file")
    parser.add_argument("--digest", metavar="HEX", help="digest that the manifest must have")
    options = parser.parse_args(argv)

    def verify() -> None:
        manifest = verify_artifact(options.directory, options.public_key, options.digest)
        print(f"{options.directory}: verified, digest {manifest.digest}")

    return run("deepseek-verify", verify)
