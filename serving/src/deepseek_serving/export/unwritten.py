"""Parts of a checkpoint that a download reserved and never wrote: long runs of zeros in a tensor.

Publishing looks for them before it uses up a version (plugins/module_utils of the collection, which
runs before this package is installed); here it is for who exports by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import BinaryIO

from deepseek_serving.errors import CheckpointError
from deepseek_serving.model_files.safetensors import Tensor

# No trained matrix has so many zero bytes in a row, and what a download reserves is more.
ZEROS = 2**20
# Every run of ZEROS covers a whole block, wherever it begins.
_BLOCK = ZEROS // 2
_NOTHING = bytes(_BLOCK)


def refuse_unwritten(tensors: Mapping[str, Tensor], accepted: Sequence[str] = ()) -> None:
    """Raise CheckpointError naming every tensor with ZEROS zero bytes in a row.

    `accepted` has names or patterns of tensors that may be so; they are not read.
    """
    found = []
    for name, tensor in tensors.items():
        if any(fnmatchcase(name, pattern) for pattern in accepted):
            continue
        with tensor.file.open("rb", buffering=0) as stream:
            begin = _first(stream, tensor.offset, tensor.offset + tensor.size)
        if begin is not None:
            found.append(f"{tensor.file}: tensor {name} has {ZEROS} zeros in a row from {begin} on")
    if found:
        raise CheckpointError(
            f"{'; '.join(found)}: so are files whose download was not finished; copy them again, "
            "or, if the model was published so, accept the tensors with --zero-tensors"
        )


def _first(stream: BinaryIO, begin: int, end: int) -> int | None:
    """Where the first run of ZEROS zero bytes begins."""
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
