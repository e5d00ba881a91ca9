"""Decide by the key whether an engine has to be built, and build it: whole, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from deepseek_serving.artifacts.files import sync_path
from deepseek_serving.compile.compiler import Job, Options, compile_engine
from deepseek_serving.compile.hashes import HashCache
from deepseek_serving.compile.host import Gpus, platform_name, read_gpus
from deepseek_serving.compile.key import (
    Fields,
    Key,
    Tensorrt,
    differences,
    read_fields,
    summary,
)
from deepseek_serving.compile.profiles import (
    DEFAULT_PREFILL_CHUNK,
    Profile,
    default_profiles,
    read_profiles,
)
from deepseek_serving.compile.progress import Progress
from deepseek_serving.compile.source import Source, read_source
from deepseek_serving.compile.target import Choice, Wish, choose
from deepseek_serving.errors import BuildError
from deepseek_serving.model_files.directories import write_json
from deepseek_serving.model_files.layout import GOLDEN_FILE, KEY_FILE, OPTIMIZED_FILE, PLAN_FILE

RECORD_FILE = "build.json"
INSPECTOR_FILE = "inspector.json"
LOG_FILE = "build.log"
HASHES_FILE = ".hashes.json"
REGENERATE = ("never", "fail", "if_changed", "always")
# beside the weights themselves: kernels, log, and room for others on the same file system
SPACE_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class Request:
    """What to build from what, and when."""

    graph: Path
    dest: Path
    wish: Wish = field(default_factory=Wish)
    options: Options = field(default_factory=Options)
    profiles: Path | None = None
    slots: int | None = None
    prefill_chunk: int = DEFAULT_PREFILL_CHUNK
    regenerate: str = "if_changed"
    force_hash: bool = False
    check: bool = False
    progress: Path | None = None


@dataclass
class Outcome:
    """What was done, or with `check` what would be.

    `rebuild_reason` is empty when the engine at `dest` is the one asked for. With regenerate=never
    it says why that engine is another one, and `changed` is false.
    """

    key: str
    dest: Path
    changed: bool = False
    rebuild_reason: str = ""
    before: Fields = field(default_factory=dict)
    after: Fields = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    driver: str | None = None
    driver_changed: bool = False


@dataclass(frozen=True)
class _Plan:
    """All that is decided before anything is written."""

    request: Request
    source: Source
    choice: Choice
    profiles: list[Profile]
    key: Key
    gpus: Gpus


def build(request: Request, gpus: Callable[[], Gpus] = read_gpus) -> Outcome:
    """Make `request.dest` the engine asked for; raises BuildError before anything is written."""
    if request.regenerate not in REGENERATE:
        raise BuildError(f"regenerate {request.regenerate!r} is none of {', '.join(REGENERATE)}")
    try:
        return _build_if_needed(request, gpus)
    except OSError as error:
        raise BuildError(f"{request.dest}: cannot be built: {error}") from error


def _build_if_needed(request: Request, gpus: Callable[[], Gpus]) -> Outcome:
    hashes = HashCache(request.dest.parent / HASHES_FILE, force=request.force_hash)
    plan = _decide(request, hashes, gpus)
    outcome = _compare(plan, hashes)
    if not request.check:
        hashes.save()
    if not outcome.changed or request.check:
        return outcome
    request.dest.parent.mkdir(parents=True, exist_ok=True)
    with _locked(request.dest):
        _clean(request.dest)
        # another build may have ended while this one waited
        outcome = _compare(plan, hashes)
        if outcome.changed:
            outcome.build = _build(plan)
        hashes.save()
    return outcome


def _decide(request: Request, hashes: HashCache, gpus: Callable[[], Gpus]) -> _Plan:
    source = read_source(request.graph)
    found: list[Gpus] = []

    def once() -> Gpus:
        found.append(gpus())
        return found[-1]

    choice = choose(request.wish, source, once)
    _check_options(request, choice)
    profiles = _profiles(request, source, choice)
    key = _key(request, source, choice, profiles, hashes)
    return _Plan(request, source, choice, profiles, key, found[-1] if found else Gpus((), None))


def _check_options(request: Request, choice: Choice) -> None:
    options, flavour = request.options, choice.package.flavour
    if flavour == "onnxruntime" and (options != Options() or request.profiles is not None):
        raise BuildError("flavour onnxruntime takes no builder options and no profiles")
    if options.hardware_compatible and flavour == "tensorrt_rtx":
        raise BuildError(
            "an engine of TensorRT-RTX serves every GPU of its compute capability anyway: leave "
            "hardware compatibility out"
        )
    typed = sorted(set(options.flags) & {"FP16", "BF16", "INT8", "FP8", "INT4"})
    if choice.strongly_typed and typed:
        raise BuildError(
            f"flag {', '.join(typed)}: {flavour} {choice.package.version} takes the precision from "
            "the graph (strongly typed); prepare the graph in that precision and leave it out"
        )
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise BuildError(f"optimization level {options.optimization_level} is not within 0 and 5")
    if options.workspace_bytes is not None and options.workspace_bytes <= 0:
        raise BuildError(f"workspace of {options.workspace_bytes} bytes must be more than none")


def _profiles(request: Request, source: Source, choice: Choice) -> list[Profile]:
    if choice.package.flavour == "onnxruntime":
        return []
    if request.profiles is not None:
        return read_profiles(request.profiles, source)
    return default_profiles(source, request.slots, request.prefill_chunk)


def _key(
    request: Request, source: Source, choice: Choice, profiles: list[Profile], hashes: HashCache
) -> Key:
    preparation = source.record.get("preparation") or {}
    calibration = preparation.get("calibration") or {}
    options = request.options
    return Key(
        graph={path.name: hashes.sha256(path) for path in source.files},
        calibration=calibration.get("sha256"),
        preparation={name: preparation[name] for name in ("arguments", "tools")}
        if preparation
        else None,
        builder={
            "flags": sorted(set(options.flags)),
            "hardware_compatible": options.hardware_compatible,
            "optimization_level": options.optimization_level,
            "profiles": [
                {name: shape.record() for name, shape in profile.items()} for profile in profiles
            ],
            "strongly_typed": choice.strongly_typed,
            "workspace_bytes": options.workspace_bytes,
        },
        tensorrt=Tensorrt(choice.package.flavour, choice.package.version),
        cuda_major=choice.package.cuda_major,
        platform=platform_name(),
        target=choice.target,
    )


# --- what is there already ------------------------------------------------------------------------


def _compare(plan: _Plan, hashes: HashCache) -> Outcome:
    """Whether to build, and why."""
    request = plan.request
    after: Fields = json.loads(plan.key.to_bytes())
    outcome = Outcome(plan.key.digest, request.dest, after=after, driver=plan.choice.driver)
    if not request.dest.exists():
        outcome.changed, outcome.rebuild_reason = True, f"there is no engine at {request.dest} yet"
        return outcome
    _refuse_foreign(request.dest)
    reason = _difference(request.dest, outcome, hashes)
    if request.regenerate == "always" and not reason:
        reason = "regenerate is always"
    outcome.rebuild_reason = reason
    if reason and request.regenerate == "fail":
        raise BuildError(
            f"{request.dest} is not the engine asked for, and regenerate is fail: {reason}"
        )
    outcome.changed = bool(reason) and request.regenerate != "never"
    return outcome


def _refuse_foreign(dest: Path) -> None:
    """Nothing is replaced but an engine, a damaged one included, or an empty directory."""
    ours = any((dest / name).is_file() for name in (KEY_FILE, RECORD_FILE))
    if not dest.is_dir() or (any(dest.iterdir()) and not ours):
        raise BuildError(
            f"{dest}: exists and is no engine (it has neither {KEY_FILE} nor {RECORD_FILE}); name "
            "another"
        )


def _difference(dest: Path, outcome: Outcome, hashes: HashCache) -> str:
    try:
        outcome.before = read_fields(dest / KEY_FILE)
    except BuildError as error:
        return str(error)
    changed = differences(outcome.before, outcome.after)
    if changed:
        return summary(changed)
    try:
        outcome.build = json.loads((dest / RECORD_FILE).read_text(encoding="utf-8"))
        expected = {name: entry["sha256"] for name, entry in outcome.build["files"].items()}
        outcome.driver_changed = outcome.build["driver"] != outcome.driver
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        outcome.build = {}
        return f"{dest / RECORD_FILE} is damaged: {error!r}"
    return _damage(dest, expected, hashes)


def _damage(dest: Path, expected: Mapping[str, str], hashes: HashCache) -> str:
    engines = {PLAN_FILE, OPTIMIZED_FILE} & expected.keys()
    if not engines or KEY_FILE not in expected:
        return f"{dest / RECORD_FILE} is damaged: it does not name the engine and its key"
    for name, digest in expected.items():
        try:
            if hashes.sha256(dest / name) != digest:
                return f"{name} is not what was built: its SHA-256 is another"
        except OSError as error:
            return f"{dest} is damaged: {error}"
    return ""


# --- building -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(dest: Path) -> Iterator[None]:
    """One build of a place at a time; the system frees the lock of a process that was killed."""
    path = dest.with_name(f".{dest.name}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"deepseek-engine: waiting for the build that holds {path}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replaced(dest: Path) -> Path:
    """Where an engine is while the new one takes its place."""
    return dest.with_name(f".{dest.name}.replaced")


def _partial(dest: Path) -> Path:
    """Where the new engine is while it is being built; the lock says that it is one build's."""
    return dest.with_name(f".{dest.name}.partial")


def _clean(dest: Path) -> None:
    """Undo what a killed build left; the lock says that nobody else is at work."""
    if _partial(dest).exists():
        shutil.rmtree(_partial(dest))
    old = _replaced(dest)
    if old.exists():
        if dest.exists():
            shutil.rmtree(old)
        else:
            old.rename(dest)


def _build(plan: _Plan) -> dict[str, Any]:
    dest = plan.request.dest
    _check_space(dest.parent, plan.source.size)
    progress = Progress(plan.request.progress)
    partial = _partial(dest)
    partial.mkdir(mode=0o700)
    try:
        record = _write_all(plan, partial, progress)
        _swap(partial, dest)
        progress.say(f"built {dest}")
    except OSError as error:
        raise BuildError(f"{dest}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        progress.close()
    return record


def _check_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if size + SPACE_RESERVE > free:
        raise BuildError(
            f"{directory} has {free} bytes free; the engine needs about {size}, and "
            f"{SPACE_RESERVE} must stay free. Make room, or name another destination"
        )


def _write_all(plan: _Plan, partial: Path, progress: Progress) -> dict[str, Any]:
    began = time.monotonic()
    golden = plan.source.path.with_name(GOLDEN_FILE)
    progress.say(f"building for {plan.choice.target.compute_capability or 'the CPU'}")
    with (partial / LOG_FILE).open("w", encoding="utf-8") as log:
        layers = _compile(plan, partial, log, progress)
    (partial / INSPECTOR_FILE).write_text(layers, encoding="utf-8")
    (partial / KEY_FILE).write_bytes(plan.key.to_bytes())
    if golden.is_file():
        shutil.copyfile(golden, partial / GOLDEN_FILE)
    hashes = HashCache(None)
    record = {
        "schema": 1,
        "key": plan.key.digest,
        "driver": plan.choice.driver,
        "seconds": round(time.monotonic() - began, 1),
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": hashes.sha256(path)}
            for path in sorted(partial.iterdir())
        },
    }
    write_json(partial / RECORD_FILE, record)
    return record


def _compile(plan: _Plan, partial: Path, log: TextIO, progress: Progress) -> str:
    """Write the engine itself; what is in it."""
    if plan.choice.package.flavour == "onnxruntime":
        from deepseek_serving.compile.optimizer import optimize

        return optimize(plan.source, partial / OPTIMIZED_FILE)
    job = Job(
        flavour=plan.choice.package.flavour,
        graph=plan.source.path,
        profiles=plan.profiles,
        options=plan.request.options,
        strongly_typed=plan.choice.strongly_typed,
        compute_capability=plan.choice.target.compute_capability or "",
        gpu_here=bool(plan.gpus.found),
    )
    with _stdout_into(log):
        compiled = compile_engine(job, log, progress)
    _check_space(partial, compiled.plan.nbytes)
    with (partial / PLAN_FILE).open("wb") as file:
        file.write(memoryview(compiled.plan))
    return compiled.layers


@contextlib.contextmanager
def _stdout_into(log: TextIO) -> Iterator[None]:
    """TensorRT's compiler prints some errors by itself; the result alone belongs there."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(log.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _swap(partial: Path, dest: Path) -> None:
    """Put the new directory in the old one's place; a crash between is undone by the next build."""
    for path in partial.iterdir():
        path.chmod(0o644)
        sync_path(str(path))
    partial.chmod(0o755)
    sync_path(str(partial))
    old = _replaced(dest)
    if dest.exists():
        dest.rename(old)
    partial.rename(dest)
    sync_path(str(dest.parent))
    shutil.rmtree(old, ignore_errors=True)


def describe(dest: Path) -> dict[str, Any]:
    """What is at `dest`: the key and its fields, the files, and what is wrong with them."""
    if not dest.exists():
        return {"found": False, "problems": []}
    _refuse_foreign(dest)
    try:
        fields = read_fields(dest / KEY_FILE)
        key = hashlib.sha256((dest / KEY_FILE).read_bytes()).hexdigest()
    except BuildError as error:
        return {"found": True, "problems": [str(error)]}
    outcome = Outcome(key, dest, after=fields)
    problem = _difference(dest, outcome, HashCache(dest.parent / HASHES_FILE))
    return {
        "found": True,
        "key": key,
        "fields": fields,
        "build": outcome.build,
        "problems": [problem] if problem else [],
    }
