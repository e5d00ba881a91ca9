# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the safetensors files of a checkpoint: headers, the index, and bytes that never came.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from .files import CheckpointError, Problem, read_json

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

# The safetensors format itself caps its header at this size.
_HEADER_LIMIT = 100_000_000
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64,
}  # fmt: skip

# So many zeros in a row inside a tensor are a part of a download that never came, unless somebody says otherwise.
ZEROS = 2**20
# A run of ZEROS bytes has one such block in it, wherever it begins.
_BLOCK = ZEROS // 2
_NOTHING = bytes(_BLOCK)


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies in its file, from ``begin`` to ``end``, and as what."""

    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


# --- which files hold the weights -----------------------------------------------------------------


def check_weights(
    path: str, files: Sequence[str], tied: bool
) -> tuple[dict[str, dict[str, Tensor]], list[Problem]]:
    """The tensors of each file of weights in the directory *path*, and what is wrong with them.

    *tied*: the model takes its output from its input embedding.
    """
    problems: list[Problem] = []
    if WEIGHTS_INDEX in files:
        shards = _check_indexed(path, files, problems)
    elif WEIGHTS in files:
        shards = _read_shards(path, {WEIGHTS: frozenset()}, problems)
    else:
        problems.append(
            Problem(
                WEIGHTS,
                f"neither this file nor {WEIGHTS_INDEX} is there",
                "copy the checkpoint's safetensors files",
            )
        )
        shards = {}
    if tied:
        problems += _tied_problems(path, shards)
    return shards, problems


def _check_indexed(
    path: str, files: Sequence[str], problems: list[Problem]
) -> dict[str, dict[str, Tensor]]:
    try:
        expected = _read_index(os.path.join(path, WEIGHTS_INDEX))
    except CheckpointError as error:
        problems.append(Problem(WEIGHTS_INDEX, str(error), error.remedy))
        return {}
    problems += _beside(files, expected)
    present = {shard: names for shard, names in expected.items() if shard in files}
    for shard in sorted(set(expected) - set(present)):
        problems.append(
            Problem(
                shard,
                f"the shard that {WEIGHTS_INDEX} names is missing",
                "copy it from where the checkpoint was published",
            )
        )
    shards = _read_shards(path, present, problems)
    problems += _twice(shards)
    return shards


def _beside(files: Sequence[str], expected: Mapping[str, object]) -> Iterator[Problem]:
    """Weights that the index does not know: some programs load them, and others do not."""
    for name in files:
        if os.path.dirname(name) or not name.endswith(".safetensors") or name in expected:
            continue
        yield Problem(
            name,
            f"it lies beside {WEIGHTS_INDEX}, which does not name it: programs differ in which of the two they load",
            "keep the one that the checkpoint was published with, and remove the other",
        )


def _twice(shards: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for shard, tensors in sorted(shards.items()):
        again = sorted(name for name in tensors if first.setdefault(name, shard) != shard)
        if again:
            yield Problem(
                shard,
                f"tensor {again[0]} is here and in {first[again[0]]}: programs differ in which of the two they load",
                "copy the index and all shards of one and the same revision",
            )


def _read_index(path: str) -> dict[str, frozenset[str]]:
    """Which tensors the index expects in which shard."""
    weight_map = read_json(path).get("weight_map")
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
                f"it places tensor {tensor} in {shard!r}, which is not a safetensors file in this directory"
            )
        tensors.setdefault(shard, set()).add(tensor)
    return {shard: frozenset(names) for shard, names in tensors.items()}


def _read_shards(
    path: str, expected: Mapping[str, frozenset[str]], problems: list[Problem]
) -> dict[str, dict[str, Tensor]]:
    shards: dict[str, dict[str, Tensor]] = {}
    for shard, names in sorted(expected.items()):
        try:
            shards[shard] = read_tensors(os.path.join(path, shard))
        except CheckpointError as error:
            problems.append(Problem(shard, str(error), error.remedy))
            continue
        missing = sorted(names - shards[shard].keys())
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            problems.append(
                Problem(
                    shard,
                    f"tensors that {WEIGHTS_INDEX} places here are missing: {', '.join(missing[:3])}{more}",
                    "copy the index and all shards of one and the same revision",
                )
            )
    return shards


# --- one embedding for input and output -----------------------------------------------------------


def _tied_problems(path: str, shards: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Problem]:
    places = {
        name: (shard, tensor)
        for shard, tensors in shards.items()
        for name, tensor in tensors.items()
        if name == "lm_head.weight" or name.endswith("embed_tokens.weight")
    }
    head = places.pop("lm_head.weight", None)
    for name, table in places.items():
        if head is not None and not _same(path, head, table):
            yield Problem(
                head[0],
                f"config.json says tie_word_embeddings, and lm_head.weight is not {name}: programs differ in which of the two they use",
                "set tie_word_embeddings in config.json to what the model was trained with",
            )


def _same(path: str, one: tuple[str, Tensor], other: tuple[str, Tensor]) -> bool:
    (one_file, first), (other_file, second) = one, other
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    with (
        open(os.path.join(path, one_file), "rb") as left,
        open(os.path.join(path, other_file), "rb") as right,
    ):
        left.seek(first.begin)
        right.seek(second.begin)
        remaining = first.end - first.begin
        while remaining > 0:
            size = min(remaining, ZEROS)
            block = left.read(size)
            if not block or block != right.read(size):
                return False
            remaining -= size
    return True


# --- bytes that never came ------------------------------------------------------------------------


def zero_problems(
    path: str, tensors: Mapping[str, Tensor], file: str, accepted: Sequence[str], every_byte: bool
) -> Iterator[Problem]:
    """Tensors of *file* with at least ZEROS zeros in a row: what a download reserved and never wrote.

    Without *every_byte* only what the file system knows to be unwritten, which takes no time. *accepted* has names or patterns of tensors
    that may be so. Raises OSError.
    """
    with open(os.path.join(path, file), "rb", buffering=0) as stream:
        for name, tensor in tensors.items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in accepted):
                continue
            find = _zeros if every_byte else _hole
            if (place := find(stream, tensor.begin, tensor.end)) is not None:
                yield Problem(
                    file,
                    f"tensor {name} has over {ZEROS} zeros in a row from byte {place} on, as a download has that was not finished",
                    "copy this file again from where the checkpoint was published; if the model was published so, name the tensor in "
                    "model_release_zero_tensors",
                )
                return


def _zeros(stream: BinaryIO, begin: int, end: int) -> int | None:
    """Where a run of ZEROS zero bytes begins, if there is one."""
    stream.seek(begin)
    start: int | None = None
    before = b""
    for at in range(begin, end, _BLOCK):
        block = stream.read(min(_BLOCK, end - at))
        if block == _NOTHING[: len(block)]:
            if start is None:
                start = at - (len(before) - len(before.rstrip(b"\0")))
            if at + len(block) - start >= ZEROS:
                return start
        elif start is not None:
            if at + len(block) - len(block.lstrip(b"\0")) - start >= ZEROS:
                return start
            start = None
        before = block
    return None


def _hole(stream: BinaryIO, begin: int, end: int) -> int | None:
    """Where ZEROS bytes that were never written begin, if there are."""
    number, position = stream.fileno(), begin
    while position < end:
        try:
            hole = os.lseek(number, position, os.SEEK_HOLE)
            data = os.lseek(number, hole, os.SEEK_DATA) if hole < end else end
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # nothing but the hole follows
            data = end
        hole, data = max(hole, position), min(data, end)
        if data - hole >= ZEROS:
            return hole
        position = max(data, position + 1)
    return None


# --- headers --------------------------------------------------------------------------------------


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors in a safetensors file whose data are all there, by name. Raises CheckpointError."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise CheckpointError("it is not a regular file")
        if size == 0:
            raise CheckpointError("it is empty")
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
    return _check_header(raw, 8 + header_size, size - 8 - header_size)


def _check_header(raw: bytes, start: int, data_size: int) -> dict[str, Tensor]:
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
    return {
        name: Tensor(
            start + begin, start + end, str(header[name]["dtype"]), tuple(header[name]["shape"])
        )
        for begin, end, name in ranges
    }


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
