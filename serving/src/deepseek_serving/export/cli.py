"""deepseek-export: a Hugging Face checkpoint to an ONNX decoder graph."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepseek_serving.cli import run
from deepseek_serving.export.exporter import Parameters, export


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deepseek-export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("out", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument(
        "--max-len",
        type=int,
        help="longest sequence in tokens (default: the checkpoint's, at most 4096)",
    )
    parser.add_argument("--slots", type=int, default=4, help="sequences decoded together (4)")
    options = parser.parse_args(argv)
    parameters = Parameters(max_len=options.max_len, slots=options.slots)
    return run("deepseek-export", lambda: export(options.checkpoint, options.out, parameters))
