# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be published, and how the graph of each precision is made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..artifacts.files import read_small
from ..artifacts.hashing import sha256_file
from ..artifacts.manifest import Manifest
from ..artifacts.names import check_name
from ..checkpoint.precisions import EXPORTED, Precision
from .writer import ArtifactWriter, PublishError

# Run by the serving environment's own Python: what makes a graph, so that its bytes depend on it. The command's own code is named by
# its files as well: a package may change while its version does not.
VERSIONS_PROGRAM = """
import hashlib, importlib.metadata, json, platform, sys
made_by = {
    "export": ("exporter", ("artifacts/", "checkpoint/", "export/", "model_files/"), ("deepseek-serving", "numpy", "onnx")),
    "prepare": (
        "preparer",
        ("artifacts/", "model_files/", "prepare/"),
        ("deepseek-serving", "ml_dtypes", "numpy", "onnx", "onnxruntime", "tokenizers"),
    ),
}
code, places, packages = made_by[sys.argv[1]]
versions = {name: importlib.metadata.version(name) for name in packages}
versions["python"] = platform.python_version()
record = importlib.metadata.distribution("deepseek-serving").read_text("RECORD") or ""
own = tuple("deepseek_serving/" + place for place in places)
files = sorted(line for line in record.splitlines() if line.startswith(own) and ".pyc" not in line)
versions[code] = hashlib.sha256("\\n".join(files).encode()).hexdigest()[:16]
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Plan:
    """What to publish."""

    store: str
    model: str
    version: str
    checkpoint: str
    public_key: bytes
    source: str = ""
    license: str = ""
    precisions: Sequence[Precision] = ()
    max_len: int | None = None
    slots: int | None = None
    full: bool = True
    # whether graphs are made of the checkpoint, or some server loads it as it is
    export: bool = True
    # files of the checkpoint that may be code, by path
    allowed: Sequence[str] = ()
    # the publisher's list of digests, as sha256sum writes it
    checksums: str = ""
    # tensors that may be full of zeros, by names or patterns
    zero_tensors: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_name(self.version, "version")
        check_name(self.model, "model")

    @property
    def writer(self) -> ArtifactWriter:
        return ArtifactWriter(self.store, self.model, self.public_key)

    @property
    def label(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True)
class Tools:
    """How to reach what needs the serving environment or the signing token."""

    versions: Callable[[str], dict[str, str]]
    export: Callable[[str, str], None]
    prepare: Callable[[str, str, Precision], None]
    sign_directory: Callable[[str], None]
    sign_data: Callable[[bytes], bytes]
    # loads a checkpoint's tokenizer and template as the service does, raises CheckpointError, and returns what is only worth a warning
    check: Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Recipe:
    """How the graph of one precision is made; by all of it the store is searched for one that was made before."""

    precision: str
    parent: str  # the kind of artifact that it is made from
    verb: str
    arguments: Mapping[str, Any]
    texts: Mapping[str, str | None]
    versions: Mapping[str, str]
    make: Callable[[str, str], None]

    def differences(self, manifest: Manifest) -> tuple[list[str], list[str]]:
        """How a graph was asked for differently, and how its tools differ from the installed ones."""
        made = manifest.parameters.get("arguments")
        made = made if isinstance(made, dict) else {}
        asked = [
            f"{key} was {made.get(key)!r}, is {value!r}"
            for key, value in self.arguments.items()
            if made.get(key) != value
        ]
        asked += [
            f"the {name} text was {str(manifest.parameters.get(name))[:12]}, is {str(digest)[:12]}"
            for name, digest in self.texts.items()
            if manifest.parameters.get(name) != digest
        ]
        tools = [
            f"{name} was {manifest.tools.get(name)}, is {version}"
            for name, version in sorted(self.versions.items())
            if manifest.tools.get(name) != version
        ]
        return asked, tools


def recipes_of(plan: Plan, tools: Tools) -> list[Recipe]:
    """The exported graph first: the others are made from it."""
    if not plan.export:
        return []
    arguments = {"max_len": plan.max_len, "slots": plan.slots, "precision": EXPORTED}
    versions = tools.versions("export")
    recipes = [Recipe(EXPORTED, "checkpoint", "export", arguments, {}, versions, tools.export)]
    for precision in plan.precisions:
        recipes.append(_prepared(tools, precision))
    return recipes


def _prepared(tools: Tools, precision: Precision) -> Recipe:
    texts = {
        "held_out": sha256_file(precision.held_out),
        "calibration": sha256_file(precision.calibration) if precision.calibration else None,
    }

    def make(source: str, out: str) -> None:
        tools.prepare(source, out, precision)
        _check_texts(precision, texts, out)

    return Recipe(
        precision.name,
        "graph",
        "prepare",
        {"precision": precision.name, **precision.arguments},
        texts,
        tools.versions("prepare"),
        make,
    )


def _check_texts(precision: Precision, texts: Mapping[str, str | None], out: str) -> None:
    """The manifest must not name a text that was replaced before it was read."""
    judged = read_record(out, "evaluation.json").get("held_out") or {}
    prepared = read_record(out, "export.json").get("preparation") or {}
    read = {"held_out": judged, "calibration": prepared.get("calibration") or {}}
    for what, path in precision.texts.items():
        if read[what].get("sha256") != texts[what]:
            raise PublishError(
                f"{path} changed while {precision.name} was prepared with it. Publish again when nothing writes to it."
            )


def read_record(directory: str, name: str) -> dict[str, Any]:
    path = os.path.join(directory, name)
    value = json.loads(read_small(path).decode("utf-8")) if os.path.lexists(path) else {}
    if not isinstance(value, dict):
        raise PublishError(f"{path} is not a JSON object. Install the serving package again.")
    return value
