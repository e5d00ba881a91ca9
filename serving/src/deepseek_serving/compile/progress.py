"""How far a build is: one line in a file, for a program that waits, and on the terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

# seconds between two lines; a build reports thousands of steps
INTERVAL = 1.0


@dataclass
class Progress:
    """Phases within phases, each with its number of steps, as the compiler reports them."""

    path: Path | None = None
    began: float = field(default_factory=time.monotonic)
    _phases: dict[str, tuple[int, int]] = field(default_factory=dict)
    _told: float = 0.0

    def start(self, phase: str, steps: int) -> None:
        self._phases[phase] = (0, max(steps, 1))
        self._tell(phase)

    def step(self, phase: str, step: int) -> None:
        if phase in self._phases:
            self._phases[phase] = (step + 1, self._phases[phase][1])
            self._tell(phase)

    def finish(self, phase: str) -> None:
        self._phases.pop(phase, None)

    @property
    def fraction(self) -> float:
        """Of the outermost phase; a step under way counts by the phases within it."""
        done = 0.0
        for current, steps in reversed(self._phases.values()):
            done = min((current + done) / steps, 1.0)
        return done

    def say(self, text: str) -> None:
        """One line at once: what happens now."""
        seconds = time.monotonic() - self.began
        self._told = time.monotonic()
        print(f"deepseek-engine: {text} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        if self.path is not None:
            partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            state = {"text": text, "fraction": round(self.fraction, 3), "seconds": round(seconds)}
            partial.write_text(json.dumps(state) + "\n", encoding="utf-8")
            os.replace(partial, self.path)

    def _tell(self, phase: str) -> None:
        if time.monotonic() - self._told >= INTERVAL:
            self.say(f"{self.fraction:.0%} {phase}")

    def close(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
