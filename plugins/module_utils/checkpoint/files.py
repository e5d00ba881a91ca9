# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge single files of a checkpoint by their names, sizes and first bytes, and read its JSON.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from typing import Any

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

# What programs that download leave beside a file, or instead of it, while it is not whole.
UNFINISHED_SUFFIXES = (
    ".aria2", ".aria2__temp", ".crdownload", ".download", ".filepart", ".incomplete", ".lock", ".opdownload", ".part", ".partial",
    ".tmp",
)  # fmt: skip
# In its own hidden directory, Hugging Face's program leaves locks of downloads that have ended.
HIDDEN_UNFINISHED_SUFFIXES = tuple(name for name in UNFINISHED_SUFFIXES if name != ".lock")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_PROBLEM = "it is a git-lfs pointer and not the file that it stands for"
LFS_REMEDY = (
    "run 'git lfs pull' in the directory that was cloned, and copy the files that are there then"
)
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
COPY_AGAIN = "copy it again from where the checkpoint was published"

# The largest published ones: 33 MiB for tokenizers, 9 MiB for an index of 90,000 tensors.
JSON_LIMIT = 2**26
TEMPLATE_LIMIT = 2**20


class CheckpointError(Exception):
    """One file is not as it must be; ``remedy`` says what to do about it."""

    def __init__(self, problem: str, remedy: str = COPY_AGAIN) -> None:
        super().__init__(problem)
        self.remedy = remedy


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


def unfinished(name: str, hidden: bool) -> bool:
    """Whether a file's name is one of a download that has not ended."""
    return name.lower().endswith(HIDDEN_UNFINISHED_SUFFIXES if hidden else UNFINISHED_SUFFIXES)


def refuse_code(name: str, path: str) -> None:
    """Raise CheckpointError for a file that runs code when it is loaded, or is code."""
    if name.endswith(".safetensors"):
        # The length that it begins with can look like anything.
        return
    with open(path, "rb") as stream:
        start = stream.read(8)
    if name.lower().endswith(PICKLE_SUFFIXES) or start.startswith(PICKLE_STARTS):
        raise CheckpointError(
            "pickle formats run code when they are loaded and are refused",
            "keep only the .safetensors files",
        )
    if name.lower().endswith(CODE_SUFFIXES) or start.startswith(CODE_STARTS):
        raise CheckpointError(
            "program code is refused in a checkpoint",
            "remove it; the service never runs a checkpoint's code",
        )


def refuse_pointer(path: str) -> None:
    """Raise CheckpointError for a file that git-lfs has left where another should be."""
    with open(path, "rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(LFS_PROBLEM, LFS_REMEDY)


def read_text(path: str, limit: int) -> str:
    """A text of at most *limit* bytes in UTF-8, without a byte order mark. Raises CheckpointError."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError("it is not a regular file")
            if status.st_size > limit:
                raise CheckpointError(f"it has {status.st_size} bytes, and {limit} is the most")
            data = stream.read(status.st_size)
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error}") from error
    if not data.strip():
        raise CheckpointError("it is empty")
    if data.startswith(LFS_POINTER):
        raise CheckpointError(LFS_PROBLEM, LFS_REMEDY)
    for mark, name in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise CheckpointError(
                f"it begins with the byte order mark of {name}", "save it as UTF-8 without one"
            )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: str) -> dict[str, Any]:
    """The object in a file of JSON. Raises CheckpointError."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise CheckpointError("it is not a JSON object")
    return value


def read_json_value(path: str) -> Any:
    """The same for any value."""
    text = read_text(path, JSON_LIMIT)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise CheckpointError("it cannot be read as JSON: nested too deeply") from error
    except ValueError as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else ", and seems to be cut"
        raise CheckpointError(f"it cannot be read as JSON{cut}: {error}") from error


# --- the publisher's digests ----------------------------------------------------------------------

# What sha256sum writes, without and with --tag. Names with a line break, which it would escape, are in no checkpoint.
_GNU_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(.+)")
_BSD_LINE = re.compile(r"SHA256[ \t]*\((.+)\)[ \t]*=[ \t]*([0-9a-fA-F]{64})")
LIST_LIMIT = 2**24


def read_checksums(path: str) -> dict[str, str]:
    """SHA-256 digests by file name, from a list as ``sha256sum`` (GNU coreutils) writes it.

    Taken as editors on other systems leave it: with a byte order mark, in UTF-16, with tabs, with CR LF. Raises CheckpointError if it cannot
    be read, or names a file twice with different digests.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
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


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > LIST_LIMIT:
                raise CheckpointError(f"it has more than {LIST_LIMIT} bytes")
            data = stream.read()
    except OSError as error:
        raise CheckpointError(f"it cannot be read: {error}") from error
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"it cannot be read: {error}") from error
    return [line.removesuffix("\r").rstrip(" \t") for line in text.split("\n")]
