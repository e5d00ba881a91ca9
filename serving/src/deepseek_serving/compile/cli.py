"""deepseek-engine: compile a graph for one kind of GPU, once; say what is installed and built."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepseek_serving.artifacts.engines import FLAVOURS
from deepseek_serving.cli import run
from deepseek_serving.compile import builder
from deepseek_serving.compile.compiler import Options
from deepseek_serving.compile.golden import DEFAULT_AGREEMENT
from deepseek_serving.compile.host import find_package, read_gpus
from deepseek_serving.compile.profiles import DEFAULT_PREFILL_CHUNK
from deepseek_serving.compile.target import Wish


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    action = {"build": _build, "info": _info, "smoke": _smoke}[options.action]
    return run("deepseek-engine", lambda: print(json.dumps(action(options), sort_keys=True)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepseek-engine", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|info|smoke")
    _add_build(actions.add_parser("build", help="build what has to be built; prints JSON"))
    _add_smoke(actions.add_parser("smoke", help="compare an engine in the store with its answers"))
    info = actions.add_parser("info", help="GPUs, compilers, and what is at DEST; prints JSON")
    info.add_argument("dest", type=Path, nargs="?", help="directory of an engine")
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, help="decoder.onnx or encoder.onnx")
    parser.add_argument("dest", type=Path, help="directory of the engine")
    parser.add_argument("--flavour", choices=("auto", *FLAVOURS), default="auto")
    parser.add_argument(
        "--compute-capability", metavar="N.N", help="of the GPU (default: this host's)"
    )
    parser.add_argument(
        "--hardware-compatible", action="store_true", help="for Ampere and newer (tensorrt)"
    )
    shapes = parser.add_argument_group("shapes")
    shapes.add_argument("--slots", type=int, help="sequences at once (default: as exported)")
    shapes.add_argument("--prefill-chunk", type=int, default=DEFAULT_PREFILL_CHUNK)
    shapes.add_argument("--profiles", type=Path, help="JSON file, in place of the two above")
    compiler = parser.add_argument_group("compiler")
    compiler.add_argument("--workspace-bytes", type=int)
    compiler.add_argument("--optimization-level", type=int, metavar="0-5")
    compiler.add_argument("--timing-cache", type=Path, help="file, read and written (tensorrt)")
    compiler.add_argument(
        "--flag", action="append", default=[], help="a BuilderFlag by name; may be repeated"
    )
    parser.add_argument("--regenerate", choices=builder.REGENERATE, default="if_changed")
    parser.add_argument("--force-hash", action="store_true", help="trust no remembered hash")
    parser.add_argument("--check", action="store_true", help="decide, and change nothing")
    parser.add_argument("--progress", type=Path, help="file that says how far the build is")


def _add_smoke(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--key", required=True, help="of the engine")
    parser.add_argument("--public-key", type=Path, required=True, help="PEM file")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--min-agreement", type=float, default=DEFAULT_AGREEMENT)
    parser.add_argument(
        "--record", type=Path, required=True, help="what was found; the same is not asked twice"
    )
    parser.add_argument("--check", action="store_true", help="decide, and change nothing")


def _build(options: argparse.Namespace) -> dict[str, Any]:
    request = builder.Request(
        graph=options.graph,
        dest=options.dest,
        wish=Wish(options.flavour, options.compute_capability, options.hardware_compatible),
        options=Options(
            options.workspace_bytes,
            options.optimization_level,
            tuple(sorted(set(options.flag))),
            options.hardware_compatible,
            options.timing_cache,
        ),
        profiles=options.profiles,
        slots=options.slots,
        prefill_chunk=options.prefill_chunk,
        regenerate=options.regenerate,
        force_hash=options.force_hash,
        check=options.check,
        progress=options.progress,
    )
    outcome = builder.build(request)
    return {**asdict(outcome), "dest": str(outcome.dest)}


def _smoke(options: argparse.Namespace) -> dict[str, Any]:
    # it loads what runs engines, which building them does not need
    from deepseek_serving.compile import smoke

    given = {name: value for name, value in vars(options).items() if name != "action"}
    return smoke.smoke(smoke.Request(**given))


def _info(options: argparse.Namespace) -> dict[str, Any]:
    packages = (find_package(flavour) for flavour in FLAVOURS)
    result: dict[str, Any] = {
        "gpus": asdict(read_gpus()),
        "compilers": [asdict(package) for package in packages if package is not None],
    }
    if options.dest is not None:
        result["engine"] = builder.describe(options.dest)
    return result
