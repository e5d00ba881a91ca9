"""deepseek-export: a Hugging Face checkpoint to an ONNX graph."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepseek_serving.cli import run
from deepseek_serving.export.exporter import Parameters, export, export_encoder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deepseek-export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="directory with config.json and safetensors")
    parser.add_argument("out", type=Path, help="directory to write; it must not exist yet")
    parser.add_argument(
        "--encoder",
        action="store_true",
        help="a text encoder: for embeddings (sentence-transformers directory), or a cross-encoder "
        "that scores pairs of texts; not a decoder",
    )
    parser.add_argument(
        "--max-len",
        type=int,
        help="longest sequence in tokens (default: the checkpoint's, at most 4096)",
    )
    parser.add_argument("--slots", type=int, help="sequences decoded together (default: 4)")
    parser.add_argument(
        "--zero-tensors",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that may have 1 MiB of zeros in a row, by name or with *; others are refused "
        "as parts of a download that never came; several times for several",
    )
    options = parser.parse_args(argv)
    accepted = options.zero_tensors
    if options.encoder:
        if options.max_len is not None or options.slots is not None:
            parser.error("--max-len and --slots are for decoders; an encoder takes any batch")
        return run(
            "deepseek-export",
            lambda: export_encoder(options.checkpoint, options.out, zero_tensors=accepted),
        )
    parameters = Parameters(
        max_len=options.max_len, slots=4 if options.slots is None else options.slots
    )
    return run(
        "deepseek-export",
        lambda: export(options.checkpoint, options.out, parameters, zero_tensors=accepted),
    )
