"""Reading a checkpoint's JSON files: every value is checked where it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_serving.errors import CheckpointError
from deepseek_serving.text import documents

Config = Mapping[str, Any]


def read_json(path: Path) -> Any:
    return documents.read_json(path, CheckpointError)


def read_object(path: Path) -> Config:
    return documents.read_object(path, CheckpointError)


def read_config(directory: Path) -> Config:
    return read_object(directory / "config.json")


def whole(
    config: Config, key: str, default: int | None = None, *, file: str = "config.json"
) -> int:
    """A whole number above zero."""
    value = real(config, key, default, file=file)
    if int(value) != value:
        raise CheckpointError(f"{file}: {key} must be a whole number, it is {value!r}")
    return int(value)


def real(
    config: Config, key: str, default: float | None = None, *, file: str = "config.json"
) -> float:
    """A number above zero."""
    value = default if config.get(key) is None else config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
        raise CheckpointError(f"{file}: {key} must be a positive number, it is {value!r}")
    return float(value)


def flag(config: Config, key: str, default: bool = False) -> bool:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} must be true or false, it is {value!r}")
    return value


def one_of(config: Config, key: str, supported: str) -> None:
    """Refuse any other value than the supported one; a missing key stands for it."""
    value = config.get(key, supported)
    if value != supported:
        raise CheckpointError(
            f"config.json: {key} {value!r} is not supported; supported: {supported}"
        )
