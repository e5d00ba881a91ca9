# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge whether a folder is a checkpoint that this collection can serve, and all of it there.

Looks at names, sizes and headers only, so that it answers in moments for any size. Standard library
only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What the serving package exports. The tests compare these lists with the exporter's own.
SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
SUPPORTED_ROPE_SCALINGS = ("default", "linear", "llama3", "yarn")
SUPPORTED_ACTIVATION = "silu"

# Formats that run code when they are loaded, or are code. Nothing in a release may be either, unless it is allowed by name.
PICKLE_SUFFIXES = (
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras",
)  # fmt: skip
CODE_SUFFIXES = (
    ".py", ".pyc", ".so", ".dll", ".exe", ".sh", ".bat", ".ps1", ".js", ".jar", ".class", ".wasm",
)  # fmt: skip
# The same by content, whatever the name: ELF, PE, Mach-O, a script, a zip archive (of which PyTorch makes its pickles), a pickle.
CODE_STARTS = (b"\x7fELF", b"MZ", b"\xfe\xed\xfa", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")
PICKLE_STARTS = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

# The safetensors format itself caps its header at this size.
_HEADER_LIMIT = 100_000_000
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip


class CheckpointError(Exception):
    """One file is not as it must be."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file, and what to do about it."""

    file: str
    problem: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return {"file": self.file, "problem": self.problem, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.file}: {self.problem} ({self.remedy})"


@dataclass
class Report:
    """What a checkpoint folder holds."""

    path: str
    architecture: str = ""
    model_type: str = ""
    files: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    size: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def supported(self) -> bool:
        return self.architecture in SUPPORTED_ARCHITECTURES

    def add(self, file: str, problem: str, remedy: str) -> None:
        self.problems.append(Problem(file, problem, remedy))

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
    path: str, export: bool = True, allowed: Sequence[str] = (), checksums: str = ""
) -> Report:
    """Look at the checkpoint in *path* and report every problem, not just the first.

    With *export*, also what stands in the way of making a graph of it. Files that are *allowed*, by their
    paths below the folder, may be code or pickles. *checksums* is the publisher's list; its digests
    are not compared here, since that takes as long as reading the checkpoint.
    """
    report = Report(path)
    if not os.path.isdir(path):
        report.add(
            path,
            "there is no such folder",
            "set deepseek_checkpoint to the checkpoint's folder on the release host",
        )
        return report
    _list_files(report, frozenset(allowed))
    _check_config(report, export)
    _check_weights(report)
    if checksums:
        _check_list(report, checksums)
    for name in TOKENIZER_FILES:
        if name not in report.files:
            report.add(
                name, "the file is missing", "copy it from where the checkpoint was published"
            )
    return report


def failure_message(report: Report) -> str:
    """All problems as one message for a person."""
    lines = "; ".join(str(problem) for problem in report.problems)
    return f"The checkpoint {report.path} cannot be published: {lines}"


# --- which files there are ------------------------------------------------------------------------


def _walk(path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield files and links below *path*, in order. Hidden ones are not part of a checkpoint."""
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(path, relative)) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.name.startswith("."):
                    continue
                name = os.path.join(relative, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                else:
                    yield name, entry


def _refusal(path: str, name: str) -> tuple[str, str] | None:
    """Why a file is refused for what it is, and the remedy."""
    if name.endswith(".safetensors"):
        # The length that it begins with can look like anything.
        return None
    with open(path, "rb") as stream:
        start = stream.read(8)
    if name.lower().endswith(PICKLE_SUFFIXES) or start.startswith(PICKLE_STARTS):
        return (
            "pickle formats run code when they are loaded and are refused",
            "keep only the .safetensors files",
        )
    if name.lower().endswith(CODE_SUFFIXES) or start.startswith(CODE_STARTS):
        return (
            "program code is refused in a checkpoint",
            "remove it; the service never runs a checkpoint's code",
        )
    return None


def _list_files(report: Report, allowed: frozenset[str]) -> None:
    if os.path.islink(report.path.rstrip("/")):
        report.add(
            report.path, "the folder is a symbolic link", "name the folder that it points to"
        )
    for name, entry in _walk(report.path):
        if entry.is_symlink():
            report.add(
                name,
                "symbolic links are refused",
                "copy the checkpoint with 'cp -rL' so that it holds the files",
            )
        elif not entry.is_file(follow_symlinks=False):
            report.add(name, "this is not a regular file", "remove it from the checkpoint")
        elif name not in allowed and (refusal := _refusal(os.path.join(report.path, name), name)):
            report.add(name, *refusal)
        else:
            report.files.append(name)
            report.size += entry.stat(follow_symlinks=False).st_size
    report.files.sort()


# --- config.json ----------------------------------------------------------------------------------


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"it cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError("it is not a JSON object")
    return value


def _check_config(report: Report, export: bool) -> None:
    if "config.json" not in report.files:
        report.add(
            "config.json",
            "the file is missing",
            "point deepseek_checkpoint at a folder in Hugging Face layout",
        )
        return
    try:
        config = _read_json(os.path.join(report.path, "config.json"))
    except CheckpointError as error:
        report.add(
            "config.json", str(error), "copy it again from where the checkpoint was published"
        )
        return
    architectures = config.get("architectures")
    if (
        isinstance(architectures, list)
        and len(architectures) == 1
        and isinstance(architectures[0], str)
    ):
        report.architecture = architectures[0]
    report.model_type = str(config.get("model_type", ""))
    if not export:
        return
    if not report.supported:
        report.add(
            "config.json",
            f"architecture {report.architecture or architectures} is not supported",
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


# --- weights --------------------------------------------------------------------------------------


def _check_weights(report: Report) -> None:
    if WEIGHTS_INDEX in report.files:
        _check_indexed(report)
    elif WEIGHTS in report.files:
        report.shards = [WEIGHTS]
        _check_shard(report, WEIGHTS, None)
    else:
        report.add(
            WEIGHTS,
            f"neither this file nor {WEIGHTS_INDEX} is there",
            "copy the checkpoint's safetensors files",
        )


def _check_indexed(report: Report) -> None:
    try:
        tensors = _read_index(os.path.join(report.path, WEIGHTS_INDEX))
    except CheckpointError as error:
        report.add(
            WEIGHTS_INDEX, str(error), "copy it again from where the checkpoint was published"
        )
        return
    report.shards = sorted(tensors)
    for shard in report.shards:
        if shard in report.files:
            _check_shard(report, shard, tensors[shard])
        elif not any(problem.file == shard for problem in report.problems):
            report.add(
                shard,
                f"the shard that {WEIGHTS_INDEX} names is missing",
                "copy it from where the checkpoint was published",
            )


def _read_index(path: str) -> dict[str, set[str]]:
    """Which tensors the index expects in which shard."""
    weight_map = _read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("it has no weight_map")
    tensors: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if (
            not isinstance(shard, str)
            or os.path.basename(shard) != shard
            or not shard.endswith(".safetensors")
        ):
            raise CheckpointError(
                f"it places tensor {tensor} in {shard!r}, which is not a safetensors file in this folder"
            )
        tensors.setdefault(shard, set()).add(tensor)
    return tensors


def _check_shard(report: Report, shard: str, expected: set[str] | None) -> None:
    try:
        found = read_tensors(os.path.join(report.path, shard))
    except CheckpointError as error:
        report.add(
            shard, str(error), "copy this file again from where the checkpoint was published"
        )
        return
    missing = sorted((expected or set()) - found)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        report.add(
            shard,
            f"tensors that {WEIGHTS_INDEX} places here are missing: {', '.join(missing[:3])}{more}",
            "copy the index and all shards of one and the same revision",
        )


def read_tensors(path: str) -> set[str]:
    """Names of the tensors in a safetensors file whose data are all there, else an error."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise CheckpointError("it is not a regular file")
        if size < 8:
            raise CheckpointError(
                f"it is truncated: {size} bytes, too few for a safetensors header"
            )
        (header_size,) = struct.unpack("<Q", stream.read(8))
        if header_size > _HEADER_LIMIT:
            raise CheckpointError("it is not a safetensors file: the header length is absurd")
        if 8 + header_size > size:
            raise CheckpointError(
                f"it is truncated: the header alone needs {8 + header_size} bytes, the file has {size}"
            )
        raw = stream.read(header_size)
    return _check_header(raw, size - 8 - header_size)


def _check_header(raw: bytes, data_size: int) -> set[str]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError("it is not a safetensors file: the header is not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError("it is not a safetensors file: the header is not an object")
    header.pop("__metadata__", None)
    if not header:
        raise CheckpointError("it holds no tensors")
    ranges = sorted(_tensor_range(name, entry) for name, entry in header.items())
    position = 0
    for begin, end, name in ranges:
        if begin != position:
            raise CheckpointError(
                f"its header is damaged: tensor {name} begins at {begin}, expected {position}"
            )
        position = end
    if data_size < position:
        raise CheckpointError(
            f"it is truncated: {position - data_size} bytes of tensor data are missing"
        )
    if data_size > position:
        raise CheckpointError(f"it has {data_size - position} bytes more than its header describes")
    return set(header)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tensor_range(name: str, entry: object) -> tuple[int, int, str]:
    """Begin and end of one tensor's data, after checking them against its type and shape."""
    damaged = CheckpointError(f"its header is damaged: the entry of tensor {name} makes no sense")
    if not isinstance(entry, dict):
        raise damaged
    offsets, shape = entry.get("data_offsets"), entry.get("shape")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(value) for value in offsets)
    ):
        raise damaged
    if not isinstance(shape, list) or not all(_is_count(value) for value in shape):
        raise damaged
    begin, end = offsets
    bits = _DTYPE_BITS.get(str(entry.get("dtype")))
    if end < begin:
        raise damaged
    if bits is not None:
        for dimension in shape:
            bits *= dimension
        if bits != (end - begin) * 8:
            raise damaged
    return begin, end, name


# --- the publisher's digests ----------------------------------------------------------------------

# What sha256sum writes, without and with --tag. Names with a line break, which it would escape, are in no checkpoint.
_GNU_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_BSD_LINE = re.compile(r"SHA256 \((.+)\) = ([0-9a-fA-F]{64})")


def read_checksums(path: str) -> dict[str, str]:
    """SHA-256 digests by file name, from a list as ``sha256sum`` (GNU coreutils) writes it.

    Raises CheckpointError if it cannot be read, or names a file twice with different digests.
    """
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"it cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        gnu, bsd = _GNU_LINE.fullmatch(line), _BSD_LINE.fullmatch(line)
        if gnu:
            digest, name = gnu.groups()
        elif bsd:
            name, digest = bsd.groups()
        else:
            raise CheckpointError(f"line {number} is not '<sha256>  <file>'")
        name, digest = name.removeprefix("./"), digest.lower()
        if found.setdefault(name, digest) != digest:
            raise CheckpointError(f"line {number} gives {name} another digest than a line before")
    if not found:
        raise CheckpointError("it lists no file")
    return found


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
