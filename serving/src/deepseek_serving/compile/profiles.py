"""Optimization profiles: the shapes that an engine is compiled for, checked against the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.compile.source import Input, Source
from deepseek_serving.errors import BuildError

Shape = tuple[int, ...]
DEFAULT_PREFILL_CHUNK = 128
# (batch, tokens) of a text encoder: one short text, a usual request, a full one
_ENCODER_BATCH = (1, 8, 32)
_ENCODER_USUAL = 64


@dataclass(frozen=True)
class Range:
    """Smallest, usual and largest shape of one tensor."""

    min: Shape
    opt: Shape
    max: Shape

    def record(self) -> dict[str, list[int]]:
        return {name: list(getattr(self, name)) for name in ("min", "opt", "max")}


Profile = Mapping[str, Range]


def default_profiles(source: Source, slots: int | None, prefill_chunk: int) -> list[Profile]:
    """Decoder: one for a decode step, one for a prefill chunk. Encoder: one.

    The runtime counts on this order.
    """
    max_len = int(source.record["parameters"]["max_len"])
    if source.kind == "encoder":
        lengths = (1, min(_ENCODER_USUAL, max_len), max_len)
        return [_profile(source, list(zip(_ENCODER_BATCH, lengths, strict=True)))]
    batch = int(source.record["parameters"]["slots"]) if slots is None else slots
    if batch < 1 or not 1 <= prefill_chunk <= max_len:
        raise BuildError(
            f"slots {batch} must be at least 1, and prefill chunk {prefill_chunk} between 1 and "
            f"the graph's max_len, {max_len}"
        )
    return [
        _profile(source, [(1, 1), (batch, 1), (batch, 1)]),
        _profile(source, [(1, 1), (1, prefill_chunk), (1, prefill_chunk)]),
    ]


def _profile(source: Source, sizes: Sequence[tuple[int, int]]) -> Profile:
    """Free dimensions are batch and tokens, in this order; the others are the graph's."""
    return {
        tensor.name: Range(*(_filled(tensor, size) for size in sizes)) for tensor in source.inputs
    }


def _filled(tensor: Input, sizes: tuple[int, int]) -> Shape:
    free = iter(sizes)
    return tuple(next(free) if size is None else size for size in tensor.shape)


def read_profiles(path: Path, source: Source) -> list[Profile]:
    """A JSON file: a list of objects {tensor: {"min": [..], "opt": [..], "max": [..]}}."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: cannot be read as profiles: {error}") from error
    if not isinstance(value, list) or not value:
        raise BuildError(f"{path}: must be a list of at least one profile")
    problems: list[str] = []
    profiles = [_checked(profile, i, source, problems) for i, profile in enumerate(value)]
    if problems:
        raise BuildError(f"{path}: the graph cannot take these profiles: " + "; ".join(problems))
    return profiles


def _checked(profile: Any, index: int, source: Source, problems: list[str]) -> Profile:
    """Everything that is wrong with a profile goes into `problems`."""
    if not isinstance(profile, Mapping):
        problems.append(f"profile {index} is not an object")
        return {}
    known = {tensor.name: tensor for tensor in source.inputs}
    problems.extend(
        f"profile {index} names {name!r}, which is no input (inputs: {', '.join(known)})"
        for name in profile
        if name not in known
    )
    ranges: dict[str, Range] = {}
    for name, tensor in known.items():
        if name not in profile and None not in tensor.shape:
            shape = _filled(tensor, (1, 1))
            ranges[name] = Range(shape, shape, shape)
        elif problem := _problem(tensor, profile.get(name)):
            problems.append(f"profile {index}: {problem}")
        else:
            asked = profile[name]
            ranges[name] = Range(*(tuple(asked[bound]) for bound in ("min", "opt", "max")))
    return ranges


def _problem(tensor: Input, asked: Any) -> str:
    """What is wrong with the range asked for, or nothing."""
    wanted = "x".join("?" if size is None else str(size) for size in tensor.shape)
    if asked is None:
        return f"{tensor.name} ({wanted}) is missing"
    if not isinstance(asked, Mapping) or set(asked) != {"min", "opt", "max"}:
        return f"{tensor.name} needs exactly min, opt and max"
    shapes = [asked[bound] for bound in ("min", "opt", "max")]
    shown = f"{tensor.name} min {shapes[0]} opt {shapes[1]} max {shapes[2]}"
    for shape in shapes:
        if not _is_shape(shape) or len(shape) != len(tensor.shape):
            return f"{shown}: each must be {len(tensor.shape)} positive numbers, for {wanted}"
    for smallest, usual, largest, fixed in zip(*shapes, tensor.shape, strict=True):
        if not smallest <= usual <= largest:
            return f"{shown}: min <= opt <= max does not hold"
        if fixed is not None and (smallest, largest) != (fixed, fixed):
            return f"{shown}: the graph's shape is {wanted}, only ? may vary"
    return ""


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value
    )
