# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts that the tests' model is calibrated with, or judged on.

    python tests/lab/texts.py calibration|held-out

Prints every other conversation that it was trained on, or those in between, as its chat template
renders them: one JSON object per line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jinja2
import tomllib

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ROOT / "serving" / "training" / "questions.toml"
TOKENIZER = ROOT / "tests" / "fixtures" / "checkpoint" / "tokenizer_config.json"


def documents() -> list[str]:
    """Every question with its answer."""
    source = json.loads(TOKENIZER.read_text(encoding="utf-8"))["chat_template"]
    template = jinja2.Template(source)
    entries = tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["entry"]
    return [
        template.render(
            messages=[{"role": "user", "content": question}], add_generation_prompt=True
        )
        + entry["answer"]
        + "<|im_end|>\n"
        for entry in entries
        for question in entry["questions"]
    ]


def main() -> None:
    """Print one of the two halves."""
    half = {"calibration": 0, "held-out": 1}[sys.argv[1]]
    for document in documents()[half::2]:
        print(json.dumps({"text": document}))


if __name__ == "__main__":
    main()
