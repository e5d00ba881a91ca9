"""deepseek-check: whether the service can read a checkpoint or a graph, found out within bounds.

The files are a third party's, and so are the programs that parse them: they run in a process of
their own, which ends by itself, by the kernel's limits, or when its time is over.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from deepseek_serving.check.trial_load import ADDRESS_SPACE, CPU_SECONDS, OUTPUT, Verdict
from deepseek_serving.cli import run
from deepseek_serving.errors import CheckpointError, ServingError

# of the clock, on a host that does much else; the kernel counts processor time
WAIT_SECONDS = 600
# Threads of these libraries reserve address space each, and one conversation needs none.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"
)
REMEDY = "take tokenizer and template as the checkpoint's publisher has them now"


def check(
    directory: Path,
    error: type[ServingError] = CheckpointError,
    *,
    decoder: bool = True,
    wait_seconds: float = WAIT_SECONDS,
) -> list[str]:
    """Raise `error` with all that keeps the service from reading `directory`; give warnings."""
    verdict = _judged(directory.absolute(), error, decoder=decoder, wait_seconds=wait_seconds)
    if verdict.errors:
        raise error("; ".join(verdict.errors))
    return verdict.warnings


def _judged(
    directory: Path, error: type[ServingError], *, decoder: bool, wait_seconds: float
) -> Verdict:
    command = [sys.executable, "-m", "deepseek_serving.check.trial_load", str(directory)]
    command.append("decoder" if decoder else "encoder")
    # from a directory where nobody else puts Python modules, to which nothing is relative
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={**os.environ, **ONE_THREAD, **_search_path(), "TOKENIZERS_PARALLELISM": "false"},
    ) as process:
        try:
            output, said = process.communicate(timeout=wait_seconds)
        except subprocess.TimeoutExpired as late:
            process.kill()
            raise error(
                f"{directory}: reading its tokenizer and template takes over {wait_seconds:g} s; "
                f"{REMEDY}"
            ) from late
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0 or len(output) > OUTPUT:
        _refuse(directory, process.returncode, said, error)
    found = json.loads(output)
    return Verdict(found["errors"], found["warnings"])


def _search_path() -> dict[str, str]:
    places = os.environ.get("PYTHONPATH")
    if not places:
        return {}
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))}


def _refuse(directory: Path, status: int, said: bytes, error: type[ServingError]) -> NoReturn:
    """What a parser did that no parser should."""
    if status == -signal.SIGXCPU or status == -signal.SIGKILL:
        reason = f"takes over {CPU_SECONDS} s of processor time, or more memory than there is"
    elif b"memory allocation" in said or b"MemoryError" in said:
        reason = f"takes more than {ADDRESS_SPACE} bytes of memory"
    else:
        last = said.decode("utf-8", "replace").strip().split("\n")[-1][:300]
        reason = f"ended with status {status}: {last or 'it said nothing'}"
    raise error(f"{directory}: reading its tokenizer and template {reason}; {REMEDY}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="deepseek-check",
        description="Load a checkpoint's or graph's tokenizer, chat template and settings as the "
        "service does, and render one conversation.",
    )
    parser.add_argument("directory", type=Path, help="checkpoint, or what deepseek-export wrote")
    parser.add_argument("--encoder", action="store_true", help="a text encoder, without a template")
    options = parser.parse_args(argv)

    return run("deepseek-check", _action(options.directory, decoder=not options.encoder))


def _action(directory: Path, *, decoder: bool) -> Callable[[], None]:
    def action() -> None:
        for warning in check(directory, decoder=decoder):
            print(f"warning: {warning}")

    return action
