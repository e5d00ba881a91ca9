"""Refuse parts of a checkpoint that a download reserved and never wrote: long runs of zeros.

Publishing looks for them before it uses up a version; here it is for who exports by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseek_serving.checkpoint.weights import Tensor as Place
from deepseek_serving.checkpoint.weights import zero_problems
from deepseek_serving.errors import CheckpointError
from deepseek_serving.model_files.safetensors import Tensor


def refuse_unwritten(tensors: Mapping[str, Tensor], accepted: Sequence[str] = ()) -> None:
    """Raise CheckpointError naming the first tensor of each file with 1 MiB of zeros in a row.

    `accepted` has names or patterns of tensors that may be so; they are not read.
    """
    by_file: dict[Path, dict[str, Place]] = {}
    for name, tensor in tensors.items():
        place = Place(tensor.offset, tensor.offset + tensor.size, tensor.dtype, tensor.shape)
        by_file.setdefault(tensor.file, {})[name] = place
    found = [
        f"{file}: {problem.problem}"
        for file, places in by_file.items()
        for problem in zero_problems(str(file.parent), places, file.name, accepted, every_byte=True)
    ]
    if found:
        raise CheckpointError(
            f"{'; '.join(found)}; copy these files again, or, if the model was published so, "
            "accept the tensors with --zero-tensors"
        )
