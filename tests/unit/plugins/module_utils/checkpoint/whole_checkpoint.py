# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small checkpoint without problems, and what is found in one."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)

JSON_NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def shard(tensors: dict[str, int], missing: int = 0) -> bytes:
    """A safetensors file with one-dimensional U8 tensors of the given sizes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(position - missing)


def write(path: Path, architecture: str = "Qwen2ForCausalLM") -> Path:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"architectures": [architecture], "model_type": "qwen2"})
    )
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (path / "model-00001-of-00002.safetensors").write_bytes(shard({"a": 100}))
    (path / "model-00002-of-00002.safetensors").write_bytes(shard({"b": 50}))
    return path


def problems(path: Path) -> dict[str, str]:
    return {item.file: item.problem for item in checkpoint.inspect(str(path)).problems}


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
