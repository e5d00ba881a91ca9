"""The smoke test as a step: verify an engine, run it, and remember for which driver it passed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.compile.golden import Agreement, check, compare, read_golden
from deepseek_serving.compile.host import read_gpus
from deepseek_serving.model_files.directories import write_json
from deepseek_serving.model_files.layout import GOLDEN_FILE
from deepseek_serving.runtime.engine import open_engine
from deepseek_serving.trust.release import verify_release


@dataclass(frozen=True)
class Request:
    """Which engine of which release, and where to remember that it passed."""

    store: Path
    model: str
    version: str
    precision: str
    key: str
    public_key: Path
    record: Path
    threads: int
    min_agreement: float
    check: bool


def smoke(request: Request) -> dict[str, Any]:
    """Run the test unless this engine passed it with this driver and these GPUs.

    Raises VerificationError for bytes that are not the ones signed, EngineError for wrong answers.
    """
    asked = _asked(request)
    found = _read(request.record)
    if found is not None and found.get("asked") == asked:
        return {"changed": False, **found}
    if request.check:
        return {"changed": True, "asked": asked}
    result = {"asked": asked, "agreement": _run(request).record()}
    write_json(request.record, result)
    return {"changed": True, **result}


def _asked(request: Request) -> dict[str, Any]:
    """What the answer depends on, apart from bytes that are verified when they are loaded."""
    gpus = read_gpus()
    return {
        "key": request.key,
        "min_agreement": request.min_agreement,
        "driver": gpus.driver,
        "gpus": [asdict(gpu) for gpu in gpus.found],
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _run(request: Request) -> Agreement:
    release = verify_release(
        request.store, request.model, request.version, request.public_key, request.precision
    )
    engine = open_engine(
        release,
        store=request.store,
        public_key=request.public_key,
        key=request.key,
        threads=request.threads,
    )
    directory = request.store / "engine" / request.model / request.key
    agreement = compare(engine, read_golden(directory / GOLDEN_FILE))
    check(agreement, request.min_agreement, str(directory))
    return agreement
