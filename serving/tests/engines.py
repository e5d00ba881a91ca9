"""What tests of engines share: builds for GPUs that are not there, and what a directory holds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support import command

from deepseek_serving.compile.builder import Outcome, Request, build
from deepseek_serving.compile.cli import main
from deepseek_serving.compile.host import Gpu, Gpus
from deepseek_serving.compile.target import Wish

A100 = Wish("tensorrt_rtx", "8.0")
CPU = Wish("onnxruntime")
H100 = Gpu("NVIDIA H100 80GB HBM3", "GPU-00000000-1111-2222-3333-444444444444", "9.0")
NO_GPU = Gpus((), None, "NVML: no driver")


def no_gpu() -> Gpus:
    """So that the tests ask the same of a host with a GPU."""
    return NO_GPU


@dataclass(frozen=True)
class Place:
    """A graph, and an engine made from it, in a directory of their own."""

    folder: Path
    wish: Wish

    @property
    def graph(self) -> Path:
        return self.folder / "graph" / "decoder.onnx"

    @property
    def dest(self) -> Path:
        return self.folder / "engines" / "engine"

    @property
    def record(self) -> Path:
        return self.graph.with_name("export.json")

    def build(self, **changes: Any) -> Outcome:
        request = Request(self.graph, self.dest, self.wish)
        return build(replace(request, **changes), no_gpu)

    def copy(self, folder: Path) -> Place:
        """With the time stamps, so that what was hashed long ago stays so."""
        for name in ("graph", "engines"):
            shutil.copytree(self.folder / name, folder / name)
        return Place(folder, self.wish)

    @classmethod
    def make(cls, folder: Path, graph: Path, wish: Wish) -> Place:
        """With a graph that was written a while ago: a young file's hash is not remembered."""
        shutil.copytree(graph, folder / "graph")
        for path in (folder / "graph").iterdir():
            settle(path)
        place = cls(folder, wish)
        place.build()
        return place


def arguments(graph: Path, dest: Path, wish: Wish, *more: str) -> list[str]:
    """The command line of a build."""
    line = [command("deepseek-engine"), "build", str(graph), str(dest), "--flavour", wish.flavour]
    if wish.compute_capability:
        line += ["--compute-capability", wish.compute_capability]
    return [*line, *more]


def run_build(graph: Path, dest: Path, wish: Wish, *more: str) -> dict[str, Any]:
    """What the command prints, in this process: a new one would import the compiler again."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(arguments(graph, dest, wish, *more)[1:])
    assert status == 0
    value: dict[str, Any] = json.loads(printed.getvalue())
    return value


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time stamp and bytes of everything in a directory, hidden files included."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def hidden(place: Place) -> set[str]:
    """What lies beside the engine and outlives a build."""
    return {path.name for path in place.dest.parent.iterdir()} - {place.dest.name}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settled(path: Path, data: bytes, age: float = 10) -> Path:
    """A file that was last written `age` seconds ago."""
    path.write_bytes(data)
    settle(path, age)
    return path


def settle(path: Path, age: float = 10) -> None:
    """Say that a file was last written `age` seconds ago."""
    then = time.time() - age
    os.utime(path, (then, then))
