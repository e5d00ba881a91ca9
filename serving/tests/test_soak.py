"""The soak of benchmarks, in seconds, and what it must not let pass."""

from __future__ import annotations

import subprocess
import sys

from support import ROOT
from waiting import PATIENCE

BENCH = ROOT / "benchmarks"


def test_short_soak_finds_nothing_wrong() -> None:
    done = subprocess.run(
        # What a few seconds find of the machine's speed need not hold in the next ones.
        [sys.executable, str(BENCH / "soak.py"), "--minutes", "0.1", "--most-refused", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout


SPOILT = f"""
import itertools, sys
sys.path.insert(0, {str(BENCH)!r})
import soak
if __name__ == "__main__":
    soak.Soak._noted = lambda self, answer: answer
    soak.Answer.__eq__ = lambda self, other: False
    sizes = itertools.count(100, 10)
    soak.resident = lambda process: float(next(sizes))
    sys.argv = ["soak.py", "--minutes", "0.02"]
    sys.exit(soak.main())
"""


def test_soak_says_what_is_wrong() -> None:
    """With its own eyes spoilt, since the service gives it nothing to find."""
    done = subprocess.run(
        [sys.executable, "-c", SPOILT],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stdout
    for complaint in ("instead of", "counts differ", "memory grows"):
        assert complaint in done.stderr
