# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release host: what publishes and signs, with tools that are stood in for."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import list_directory
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    PIECE_SIZE,
    hash_file,
    sha256_file,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.files import (
    CheckpointError,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Plan, Tools
from ansible_collections.onprem.deepseek.plugins.module_utils.store.state import (
    read_manifest,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.store.writer import (
    PublishError,
)

SMALL = 200_000
PIECE = PIECE_SIZE
# Two pieces, the second a small one.
LARGE = PIECE + 3 * 1024 * 1024


class Signer:
    """A signing key in memory, not in a token, and an exporter that writes what it is told."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.versions = {"onnx": "1.19.0"}
        self.exports = 0
        self.graph = b"graph"
        self.prepared: list[str] = []
        self.gate = False
        self.checked: list[str] = []
        self.unreadable = ""
        self.unlike: list[str] = []

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def sign_directory(self, directory: str) -> None:
        digests = {
            path: hash_file(os.path.join(directory, path)).sha256
            for path in list_directory(directory)
        }
        resources = [
            {"name": path, "algorithm": "sha256", "digest": digest}
            for path, digest in digests.items()
        ]
        payload = json.dumps({"predicate": {"resources": resources}}).encode()
        kind = b"application/vnd.in-toto+json"
        signature = self.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind.decode(),
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        }
        Path(directory, "model.sig").write_text(json.dumps({"dsseEnvelope": envelope}))

    def export(self, checkpoint: str, out: str) -> None:
        self.exports += 1
        assert Path(checkpoint, "model.safetensors").is_file()
        os.mkdir(out)
        Path(out, "decoder.onnx").write_bytes(self.graph)
        Path(out, "empty").write_bytes(b"")
        Path(out, "export.json").write_text(
            json.dumps({"parameters": {"opset": 24}, "tools": self.versions})
        )

    def tools(self) -> Tools:
        return Tools(
            lambda _command: dict(self.versions),
            self.export,
            self.prepare,
            self.sign_directory,
            self.sign,
            self.check,
        )

    def check(self, checkpoint: str) -> list[str]:
        """What deepseek-check does, or refuse as it does."""
        self.checked.append(checkpoint)
        if self.unreadable:
            raise CheckpointError(self.unreadable)
        return self.unlike

    def prepare(self, source: str, out: str, precision: Precision) -> None:
        """Write what deepseek-prepare does, or refuse as its gate does."""
        self.prepared.append(precision.name)
        read_manifest(source, Path(source).name)
        if self.gate:
            raise PublishError(f"deepseek-prepare: accuracy gate failed: {precision.name}")
        os.mkdir(out)
        Path(out, "decoder.onnx").write_bytes(self.graph + precision.name.encode())
        read = {what: {"sha256": sha256_file(path)} for what, path in precision.texts.items()}
        record = {
            "parameters": {"opset": 24},
            "preparation": {"calibration": read.get("calibration")},
        }
        Path(out, "export.json").write_text(json.dumps(record))
        Path(out, "evaluation.json").write_text(
            json.dumps({"held_out": read["held_out"], "top1_agreement": 0.97})
        )


def write_checkpoint(path: Path, size: int = 1000) -> Path:
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})
    )
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    data = random.Random(1).randbytes(size)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def plan(tmp_path: Path, signer: Signer) -> Plan:
    checkpoint = write_checkpoint(tmp_path / "import")
    return Plan(str(tmp_path / "origin"), "tiny", "1.0.0", str(checkpoint), signer.pem)


def tree(path: str | Path) -> dict[str, str]:
    """Every file below a directory but lock files, with its hash."""
    return {
        str(item.relative_to(path)): hashlib.sha256(item.read_bytes()).hexdigest()
        for item in Path(path).rglob("*")
        if item.is_file() and item.name != ".lock"
    }


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes as a bad disk does: size, mode and time of the file say nothing."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
