# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge whether a directory is a checkpoint that this collection can serve, and all of it there.

Standard library only: it runs before anything is installed. What takes the tokenizer's and the template's own programs is checked by
C(deepseek-check) of the serving package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .files import (
    TEMPLATE_LIMIT,
    CheckpointError,
    Problem,
    read_checksums,
    read_json,
    read_json_value,
    read_text,
    refuse_code,
    refuse_pointer,
    unfinished,
)
from .weights import WEIGHTS_INDEX, Tensor, check_weights, zero_problems

# What the serving package exports. The tests compare these lists with the exporter's own.
SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
SUPPORTED_ROPE_SCALINGS = ("default", "linear", "llama3", "yarn")
SUPPORTED_ACTIVATION = "silu"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# These must hold an object; other files of JSON may hold any value.
OBJECTS = frozenset((*TOKENIZER_FILES, "generation_config.json"))

# Up to this size, every byte is looked at for parts that never came; of a larger checkpoint that is done when it is published.
READ_LIMIT = 4 * 2**30


@dataclass
class Report:
    """What a checkpoint directory holds."""

    path: str
    architecture: str = ""
    model_type: str = ""
    files: list[str] = field(default_factory=list)
    size: int = 0
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def shards(self) -> list[str]:
        """Files that hold the weights."""
        return sorted(self.tensors)

    @property
    def supported(self) -> bool:
        return self.architecture in SUPPORTED_ARCHITECTURES

    def refused(self, file: str) -> bool:
        """Whether something is said of the file already."""
        return any(problem.file == file for problem in self.problems)

    def add(self, file: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(file, problem, remedy))

    def refuse(self, file: str, error: CheckpointError) -> None:
        self.add(file, str(error), error.remedy)

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "architecture": self.architecture,
            "model_type": self.model_type,
            "supported": self.supported,
            "supported_architectures": list(SUPPORTED_ARCHITECTURES),
            "files": self.files,
            "shards": self.shards,
            "size": self.size,
            "problems": [problem.as_dict() for problem in self.problems],
        }


def inspect(
    path: str,
    export: bool = True,
    allowed: Sequence[str] = (),
    checksums: str = "",
    zero_tensors: Sequence[str] = (),
) -> Report:
    """Look at the checkpoint in *path* and report every problem, not just the first.

    With *export*, also what stands in the way of making a graph of it. Files that are *allowed*, by their
    paths below the directory, may be code or pickles. *checksums* is the publisher's list; its digests
    are not compared here, since that takes as long as reading the checkpoint. Tensors that are *zero_tensors*, by names or patterns, may be
    full of zeros.
    """
    report = Report(path)
    if not os.path.isdir(path):
        report.add(
            path,
            "there is no such directory",
            "set deepseek_checkpoint to the checkpoint's directory on the release host",
        )
        return report
    _list_files(report, frozenset(allowed))
    _check_texts(report)
    config = _check_config(report, export)
    tied = config.get("tie_word_embeddings") is True
    if not report.refused(WEIGHTS_INDEX):
        report.tensors, problems = check_weights(path, report.files, tied)
        # of a shard that was refused for what it is, it goes without saying that it is missing
        report.problems += [problem for problem in problems if not report.refused(problem.file)]
    report.problems += unwritten(report, zero_tensors, every_byte=report.size <= READ_LIMIT)
    if checksums:
        _check_list(report, checksums)
    for name in TOKENIZER_FILES:
        if name not in report.files and not report.refused(name):
            report.add(
                name, "the file is missing", "copy it from where the checkpoint was published"
            )
    return report


def failure_message(report: Report) -> str:
    """All problems as one message for a person."""
    lines = "; ".join(str(problem) for problem in report.problems)
    return f"The checkpoint {report.path} cannot be published: {lines}"


def unwritten(
    report: Report, zero_tensors: Sequence[str], every_byte: bool = True
) -> Iterator[Problem]:
    """Files of weights of which a part never came. With *every_byte* it takes as long as reading them. Raises OSError."""
    for file, tensors in sorted(report.tensors.items()):
        yield from zero_problems(report.path, tensors, file, zero_tensors, every_byte)


# --- which files there are ------------------------------------------------------------------------


def _walk(path: str, hidden: bool = False) -> Iterator[tuple[str, os.DirEntry[str], bool]]:
    """Yield files and links below *path*, in order, and whether they are hidden: those are not part of a checkpoint."""
    pending = [("", hidden)]
    while pending:
        relative, hidden = pending.pop()
        with os.scandir(os.path.join(path, relative)) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                name = os.path.join(relative, entry.name)
                covered = hidden or entry.name.startswith(".")
                if entry.is_dir(follow_symlinks=False):
                    pending.append((name, covered))
                else:
                    yield name, entry, covered


def _list_files(report: Report, allowed: frozenset[str]) -> None:
    if os.path.islink(report.path.rstrip("/")):
        report.add(
            report.path, "the directory is a symbolic link", "name the directory that it points to"
        )
    for name, entry, hidden in _walk(report.path):
        if unfinished(name, hidden) and name not in allowed:
            report.add(
                name,
                "a program that downloads leaves such a file while a download is not finished",
                "finish the download, or remove this file if it is finished",
            )
        elif not hidden:
            _list_file(report, name, entry, allowed)
    report.files.sort()


def _list_file(report: Report, name: str, entry: os.DirEntry[str], allowed: frozenset[str]) -> None:
    if entry.is_symlink():
        report.add(
            name,
            "symbolic links are refused",
            "copy the checkpoint with 'cp -rL' so that it holds the files",
        )
        return
    if not entry.is_file(follow_symlinks=False):
        report.add(name, "this is not a regular file", "remove it from the checkpoint")
        return
    path = os.path.join(report.path, name)
    try:
        refuse_pointer(path)
        if name not in allowed:
            refuse_code(name, path)
    except CheckpointError as error:
        report.refuse(name, error)
        return
    report.files.append(name)
    report.size += entry.stat(follow_symlinks=False).st_size


def _check_texts(report: Report) -> None:
    """What is read as text must be one, whole; config.json and the index are judged where they are used."""
    for name in report.files:
        path = os.path.join(report.path, name)
        try:
            if name in OBJECTS:
                read_json(path)
            elif name.endswith(".json") and name not in ("config.json", WEIGHTS_INDEX):
                read_json_value(path)
            elif name.endswith(".jinja"):
                read_text(path, TEMPLATE_LIMIT)
        except CheckpointError as error:
            report.refuse(name, error)


# --- config.json ----------------------------------------------------------------------------------


def _check_config(report: Report, export: bool) -> dict[str, Any]:
    """What config.json says, empty where it cannot be read."""
    if "config.json" not in report.files:
        if not report.refused("config.json"):
            report.add(
                "config.json",
                "the file is missing",
                "point deepseek_checkpoint at a directory in Hugging Face layout",
            )
        return {}
    try:
        config = read_json(os.path.join(report.path, "config.json"))
    except CheckpointError as error:
        report.refuse("config.json", error)
        return {}
    architectures = config.get("architectures")
    if (
        isinstance(architectures, list)
        and len(architectures) == 1
        and isinstance(architectures[0], str)
    ):
        report.architecture = architectures[0]
    report.model_type = str(config.get("model_type", ""))
    if export:
        _check_architecture(report, config)
    return config


def _check_architecture(report: Report, config: dict[str, Any]) -> None:
    if not report.supported:
        named = report.architecture or config.get("architectures")
        report.add(
            "config.json",
            f"architecture {named} is not supported",
            "use a checkpoint of one of: "
            + ", ".join(SUPPORTED_ARCHITECTURES)
            + "; or set deepseek_export to false, for a server that loads the checkpoint itself",
        )
        return
    for problem, remedy in _unsupported(config):
        report.add("config.json", problem, remedy)


def _unsupported(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a model of a supported architecture may have and the exporter refuses."""
    quantisation = config.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        yield (
            f"its weights are quantised already ({method or 'by no named method'})",
            "use the checkpoint in bfloat16, float16 or float32",
        )
    activation = config.get("hidden_act", SUPPORTED_ACTIVATION)
    if activation != SUPPORTED_ACTIVATION:
        yield (
            f"hidden_act {activation!r} is not supported",
            f"use a checkpoint with {SUPPORTED_ACTIVATION}",
        )
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if not isinstance(rope, dict) or kind not in SUPPORTED_ROPE_SCALINGS:
        yield (
            f"rotary scaling {kind!r} is not supported",
            "use a checkpoint with one of: " + ", ".join(SUPPORTED_ROPE_SCALINGS),
        )
    if _slides(config):
        yield (
            "some layers use a sliding window, which is not supported",
            "use a checkpoint with full attention in every layer",
        )


def _slides(config: dict[str, Any]) -> bool:
    """Whether a layer uses the window; published configs name one that none uses."""
    kinds = config.get("layer_types")
    if kinds is not None:
        return not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
    if not config.get("use_sliding_window") or config.get("sliding_window", 1) is None:
        return False
    full, layers = config.get("max_window_layers", 0), config.get("num_hidden_layers", 0)
    return not (isinstance(full, int) and isinstance(layers, int) and full >= layers)


# --- the publisher's digests ----------------------------------------------------------------------

_LIST_REMEDY = "name the list that came with the checkpoint, as sha256sum writes it"


def _check_list(report: Report, path: str) -> None:
    try:
        listed = read_checksums(path)
    except CheckpointError as error:
        report.add(path, str(error), _LIST_REMEDY)
        return
    for shard in report.shards:
        if shard not in listed:
            report.add(shard, f"{path} has no digest of it", _LIST_REMEDY)


def checksum_problems(path: str, found: Mapping[str, str]) -> Iterator[Problem]:
    """Files whose SHA-256, as *found*, is not what the publisher's list in *path* says."""
    listed = read_checksums(path)
    for name, digest in sorted(found.items()):
        if listed.get(name, digest) != digest:
            yield Problem(
                name,
                f"its SHA-256 is {digest}, and {path} says {listed[name]}",
                "copy this file again from where the checkpoint was published",
            )
