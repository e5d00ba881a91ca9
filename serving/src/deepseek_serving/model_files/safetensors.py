"""Read safetensors files without a framework: memory-mapped, checked before the first byte is used.

Format: eight bytes (length of the header, little-endian), the header as JSON, then the tensors'
bytes; offsets in the header count from the end of the header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.errors import CheckpointError
from deepseek_serving.text.documents import LFS_POINTER, read_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# A header holds names and offsets only; a longer one is no safetensors file.
LONGEST_HEADER = 100 * 2**20
COMPARED = 2**20
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows start to stop along the first axis, as FP32."""
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        first = start * width * ITEM_BYTES[self.dtype]
        return _as_fp32(self._map(first, (stop - start, *self.shape[1:])))

    def columns(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Columns start to stop of a matrix, as FP32 [rows, stop - start]."""
        return _as_fp32(self._map(0, self.shape)[:, start:stop])

    def same_bytes(self, other: Tensor) -> bool:
        """Whether the other has the same type, shape and values."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        with self.file.open("rb") as mine, other.file.open("rb") as theirs:
            mine.seek(self.offset)
            theirs.seek(other.offset)
            for start in range(0, self.size, COMPARED):
                size = min(COMPARED, self.size - start)
                if mine.read(size) != theirs.read(size):
                    return False
        return True

    def _map(self, first: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype]
        return np.memmap(self.file, dtype=kind, mode="r", offset=self.offset + first, shape=shape)


def _as_fp32(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if raw.dtype != np.uint16:
        return raw.astype(np.float32)
    # bfloat16 is the upper half of an FP32
    wide = raw.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if prefix == LFS_POINTER[:8]:
            raise CheckpointError(
                f"{path}: a git-lfs pointer and not the file that it stands for; run 'git lfs "
                "pull' in the checkpoint's directory"
            )
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > LONGEST_HEADER or 8 + length > size:
            raise CheckpointError(
                f"{path}: truncated or not a safetensors file ({size} bytes, "
                f"header of {length} bytes announced); copy the checkpoint again"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: the safetensors header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, once its size has been found to be what its header announces."""
    header, start = _header(path)
    tensors: dict[str, Tensor] = {}
    end = start
    for name, entry in header.items():
        try:
            first, last = (int(value) for value in entry["data_offsets"])
            tensor = Tensor(
                file=path,
                dtype=str(entry["dtype"]),
                shape=tuple(int(size) for size in entry["shape"]),
                offset=start + first,
                size=last - first,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: the header's entry for {name!r} is malformed ({error!r})"
            ) from error
        if tensor.dtype in ITEM_BYTES:
            expected = int(np.prod(tensor.shape, dtype=np.int64)) * ITEM_BYTES[tensor.dtype]
            if expected != tensor.size or first < 0:
                raise CheckpointError(
                    f"{path}: tensor {name!r} has {tensor.size} bytes, its shape "
                    f"{list(tensor.shape)} in {tensor.dtype} needs {expected}"
                )
        end = max(end, start + last)
        tensors[name] = tensor
    size = path.stat().st_size
    if size != end:
        raise CheckpointError(
            f"{path}: truncated or damaged: {size} bytes where its header announces {end}; "
            "copy the checkpoint again"
        )
    return tensors


def _weight_map(index: Path) -> Mapping[str, str]:
    weight_map = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: not a safetensors index: it has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index}: {shard!r} is not a file name in this folder")
    return weight_map


def _refuse_twice(folder: Path, by_shard: Mapping[str, Mapping[str, Tensor]]) -> None:
    first: dict[str, str] = {}
    for shard, tensors in by_shard.items():
        for name in tensors:
            if first.setdefault(name, shard) != shard:
                raise CheckpointError(
                    f"{folder / shard}: tensor {name!r} is here and in {first[name]}, and programs "
                    "differ in which they load; copy all shards of one and the same revision"
                )


def has_weights(folder: Path) -> bool:
    """Whether there is anything for `read_checkpoint`."""
    return any((folder / name).exists() for name in (SINGLE_FILE, INDEX_FILE))


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, in one file or in shards with an index."""
    index = folder / INDEX_FILE
    if not index.is_file():
        single = folder / SINGLE_FILE
        if not single.is_file():
            raise CheckpointError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}")
        return read_file(single)
    if (folder / SINGLE_FILE).exists():
        raise CheckpointError(
            f"{folder}: {SINGLE_FILE} lies beside {INDEX_FILE}, and programs differ in which they "
            "load; keep the one that the checkpoint was published with"
        )
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: missing {len(missing)} of {len(shards)} shards named in {INDEX_FILE}: "
            + ", ".join(missing)
        )
    by_shard = {shard: read_file(folder / shard) for shard in shards}
    _refuse_twice(folder, by_shard)
    tensors: dict[str, Tensor] = {}
    for name, shard in weight_map.items():
        if name not in by_shard[shard]:
            raise CheckpointError(
                f"{folder / shard}: tensor {name!r}, named in the index, is absent"
            )
        tensors[name] = by_shard[shard][name]
    return tensors
