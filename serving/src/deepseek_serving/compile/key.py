"""The key of an engine: everything that makes one engine another, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepseek_serving.artifacts.hashing import sha256_hex
from deepseek_serving.artifacts.manifest import SCHEMA, canonical_json
from deepseek_serving.errors import BuildError

Fields = Mapping[str, Any]
# A change of the slots alone changes two shapes of every tensor in every profile.
MOST_DIFFERENCES = 6
_ABSENT = object()


@dataclass(frozen=True)
class Tensorrt:
    """What compiles: flavour and full version of its packages."""

    flavour: str
    version: str


@dataclass(frozen=True)
class Target:
    """What the engine is compiled for; None where it does not matter.

    `product` is NVML's name of the GPU: TensorRT measures its kernels on the GPU at hand. It is
    None for an engine that is meant for every GPU of a compute capability.
    """

    compute_capability: str | None
    product: str | None


@dataclass(frozen=True)
class Key:
    """The fields of `key.json`; the key itself is the SHA-256 of that file's bytes."""

    graph: Mapping[str, str]
    calibration: str | None
    preparation: Mapping[str, Any] | None
    builder: Mapping[str, Any]
    tensorrt: Tensorrt
    cuda_major: int | None
    platform: str
    target: Target

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same fields give the same bytes."""
        return canonical_json({"schema": SCHEMA, **asdict(self)})

    @property
    def digest(self) -> str:
        return sha256_hex(self.to_bytes())


def read_fields(path: Path) -> Fields:
    """The fields of a key file; raises BuildError if it is none."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: cannot be read as a key: {error}") from error
    if not isinstance(fields, dict):
        raise BuildError(f"{path}: is not a JSON object")
    return fields


def differences(before: Fields, after: Fields) -> list[str]:
    """The fields that differ, each with both values, by their dotted names."""
    old, new = dict(_flat(before)), dict(_flat(after))
    found = []
    for name in sorted(old.keys() | new.keys(), key=_rank):
        was, now = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if _show(was) != _show(now):
            found.append(f"{name} was {_show(was)}, is {_show(now)}")
    return found


def summary(found: Sequence[str]) -> str:
    """The first differences in words, and how many more there are."""
    more = len(found) - MOST_DIFFERENCES
    return "; ".join(found[:MOST_DIFFERENCES]) + (f"; and {more} more fields" * (more > 0))


def _rank(name: str) -> tuple[bool, str]:
    """Shapes come last: they are many, and follow from other choices."""
    return name.startswith("builder.profiles"), name


def _flat(fields: Fields, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from _flat({str(i): item for i, item in enumerate(value)}, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _show(value: object) -> str:
    if value is _ABSENT:
        return "not there"
    return "none" if value is None else json.dumps(value, sort_keys=True)
