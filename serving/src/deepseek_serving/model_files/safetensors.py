"""The tensors of a checkpoint, memory-mapped without a framework.

Headers and index are read and checked by the collection's own code, before the first byte is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek_serving.checkpoint.files import CheckpointError as UnusableError
from deepseek_serving.checkpoint.files import refuse_pointer
from deepseek_serving.checkpoint.weights import WEIGHTS, WEIGHTS_INDEX, check_weights
from deepseek_serving.errors import CheckpointError

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


def has_weights(directory: Path) -> bool:
    """Whether there is anything for `read_checkpoint`."""
    return any((directory / name).exists() for name in (WEIGHTS, WEIGHTS_INDEX))


def _refuse_pointers(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        if name.endswith(".safetensors"):
            try:
                refuse_pointer(str(directory / name))
            except UnusableError as error:
                raise CheckpointError(f"{directory / name}: {error}; {error.remedy}") from error


def read_checkpoint(directory: Path, *, tied: bool = False) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, in one file or in shards with an index.

    `tied`: the model takes its output from its input table, and may have no other one. Raises
    CheckpointError with everything that is wrong.
    """
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    _refuse_pointers(directory, names)
    shards, problems = check_weights(str(directory), names, tied)
    if problems:
        said = (f"{directory / item.file}: {item.problem}; {item.remedy}" for item in problems)
        raise CheckpointError("; ".join(said))
    return {
        name: Tensor(
            file=directory / shard,
            dtype=place.dtype,
            shape=place.shape,
            offset=place.begin,
            size=place.end - place.begin,
        )
        for shard, tensors in shards.items()
        for name, place in tensors.items()
    }
