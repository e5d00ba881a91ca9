"""deepseek-prepare: an exported FP32 decoder in the precision that a GPU runs, accuracy proven."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepseek_serving.cli import run
from deepseek_serving.prepare.precision import PRECISIONS
from deepseek_serving.prepare.preparer import Options, prepare


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    directory, out = options.directory, options.out
    asked = {
        name: value for name, value in vars(options).items() if name not in ("directory", "out")
    }

    def action() -> None:
        result = prepare(directory, out, Options(**asked))
        print(f"{out}: {options.precision}: {result}")

    return run("deepseek-prepare", action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deepseek-prepare", description=__doc__)
    parser.add_argument("directory", type=Path, help="what deepseek-export wrote")
    parser.add_argument("out", type=Path, help="directory to write; it must not exist yet")
    parser.add_argument("--precision", choices=list(PRECISIONS), required=True)
    text = parser.add_argument_group(
        "texts", "one document per line, plain or (.jsonl) as JSON strings or objects with text"
    )
    text.add_argument(
        "--calibration", type=Path, help="what activations are measured on (int8, fp8)"
    )
    text.add_argument("--held-out", type=Path, help="what the prepared graph is judged on")
    text.add_argument("--window", type=int, default=512, help="tokens read at a time (512)")
    text.add_argument("--calibration-tokens", type=int, default=16384, help="at most (16384)")
    text.add_argument("--held-out-tokens", type=int, default=16384, help="at most (16384)")
    gate = parser.add_argument_group("accuracy gate", "defaults depend on the precision")
    gate.add_argument(
        "--max-perplexity-increase", type=float, help="over the FP32 graph: 0.03 is 3 percent"
    )
    gate.add_argument(
        "--min-top1-agreement", type=float, help="share of positions with the same best token"
    )
    gate.add_argument("--max-kl-divergence", type=float, help="mean over the positions, in nats")
    parser.add_argument(
        "--block-size", type=int, default=64, help="inputs that share an INT4 scale (64)"
    )
    parser.add_argument("--threads", type=int, default=0, help="of the evaluation (0: all cores)")
    return parser
