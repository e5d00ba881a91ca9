# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the model modules take and give: arguments, check mode, diff, results and messages."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ansible_collections.onprem.deepseek.plugins.module_utils import artefact
from ansible_collections.onprem.deepseek.plugins.module_utils.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.publish import Tools
from ansible_collections.onprem.deepseek.plugins.modules import (
    checkpoint_info,
    engine_release,
    engine_replica,
    model_release,
    model_release_info,
    model_replica,
)

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a module in this process and return its result."""

    def run(module: Any, check_mode: bool = False, **arguments: object) -> dict[str, Any]:
        arguments["_ansible_check_mode"] = check_mode
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign_folder(key: ec.EllipticCurvePrivateKey, folder: str) -> None:
    resources = [
        {
            "name": path,
            "algorithm": "sha256",
            "digest": artefact.hash_file(os.path.join(folder, path)).sha256,
        }
        for path in artefact.list_folder(folder)
    ]
    payload = json.dumps({"predicate": {"resources": resources}}).encode()
    kind = b"application/vnd.in-toto+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [
            {"sig": base64.b64encode(key.sign(message, ec.ECDSA(hashes.SHA256()))).decode()}
        ],
    }
    Path(folder, "model.sig").write_text(json.dumps({"dsseEnvelope": envelope}))


def export(_checkpoint: str, out: str) -> None:
    os.mkdir(out)
    Path(out, "decoder.onnx").write_bytes(b"graph")


def prepare(_graph: str, out: str, precision: Precision) -> None:
    export("", out)
    held_out = artefact.sha256_file(precision.held_out)
    Path(out, "evaluation.json").write_text(json.dumps({"held_out": {"sha256": held_out}}))


@pytest.fixture
def site(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """A checkpoint, and arguments of model_release with a key in memory instead of a token."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (checkpoint / "tokenizer.json").write_text("{}")
    (checkpoint / "tokenizer_config.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (checkpoint / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bytes(4)
    )
    public = tmp_path / "release.pub"
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    tools = Tools(
        lambda _command: {"onnx": "1"},
        export,
        prepare,
        lambda folder: sign_folder(key, folder),
        lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    )
    monkeypatch.setattr(model_release, "tools_of", lambda _module: tools)
    return {
        "store": str(tmp_path / "store"),
        "model": "tiny",
        "version": "1.0.0",
        "checkpoint": str(checkpoint),
        "venv": "/nowhere",
        "public_key": str(public),
        "module_path": "/nowhere",
        "token": "t",
        "pin_file": "/nowhere",
    }


def test_checkpoint_info_lists_problems_and_fails_only_when_told(
    call: Call, site: dict[str, object]
) -> None:
    path = Path(str(site["checkpoint"]))
    whole = call(checkpoint_info, path=str(path), fail_on_problems=True)
    assert (
        whole["changed"],
        whole["checkpoint"]["supported"],
        whole["checkpoint"]["problems"],
    ) == (False, True, [])
    (path / "tokenizer.json").unlink()
    told = call(checkpoint_info, path=str(path))
    assert [item["file"] for item in told["checkpoint"]["problems"]] == ["tokenizer.json"]
    failed = call(checkpoint_info, path=str(path), fail_on_problems=True)
    assert failed["failed"]
    assert "tokenizer.json: the file is missing (copy it" in failed["msg"]


def test_model_release_predicts_does_and_repeats(call: Call, site: dict[str, object]) -> None:
    predicted = call(model_release, check_mode=True, **site)
    assert predicted["changed"]
    assert predicted["release"] == {}
    assert predicted["diff"] == {
        "before": "",
        "after": f"# graphs to be made: {predicted['rebuild_reason']}\n",
    }
    assert not Path(str(site["store"])).exists()
    done = call(model_release, **site)
    assert done["changed"]
    assert json.loads(done["diff"]["after"])["checkpoint"] == done["release"]["checkpoint"]
    for check_mode in (True, False):
        again = call(model_release, check_mode=check_mode, **site)
        assert not again["changed"]
        assert again["release"] == done["release"]
        assert again["diff"]["before"] == again["diff"]["after"]


def test_model_release_refuses_with_the_reason(call: Call, site: dict[str, object]) -> None:
    call(model_release, **site)
    refused = call(model_release, **{**site, "slots": 8})
    assert refused["failed"]
    assert "slots was None, is 8" in refused["msg"]
    unknown = [{"name": "int3", "held_out": "/nowhere"}]
    assert "must be one of" in call(model_release, **{**site, "precisions": unknown})["msg"]
    assert "not usable" in call(model_release, **{**site, "version": "../1"})["msg"]
    assert "No such file" in call(model_release, **{**site, "public_key": "/nowhere"})["msg"]


def info(call: Call, site: dict[str, object], **more: object) -> dict[str, Any]:
    return call(model_release_info, store=site["store"], public_key=site["public_key"], **more)


def test_model_release_info_reports_and_fails_only_when_told(
    call: Call, site: dict[str, object]
) -> None:
    assert info(call, site)["releases"] == []
    missing = info(call, site, model="tiny", version="1.0.0", fail_on_problems=True)
    assert missing["failed"]
    assert "1.0.0.json: No such file" in missing["msg"]
    done = call(model_release, **site)
    (release,) = info(call, site, verify="full")["releases"]
    assert (release["verified"], release["signature"], release["problems"]) == (True, "valid", [])
    assert release["sha256"] == done["release"]["sha256"]
    assert not info(call, site)["releases"][0]["verified"]
    assert info(call, site, model="other")["releases"] == []
    graph = Path(release["artefacts"][1]["path"], "decoder.onnx")
    graph.chmod(0o644)
    graph.write_bytes(b"Graph")
    graph.chmod(0o444)
    assert info(call, site)["releases"][0]["problems"] == []
    failed = info(call, site, verify="full", fail_on_problems=True)
    assert failed["failed"]
    assert "decoder.onnx: sha256" in failed["msg"]


def replica_arguments(site: dict[str, object], tmp_path: Path, store: str) -> dict[str, object]:
    return {
        "store": store,
        "model": "tiny",
        "version": "1.0.0",
        "public_key": site["public_key"],
        "ca": str(tmp_path / "ca.pem"),
        "certificate": str(tmp_path / "host.pem"),
        "private_key": str(tmp_path / "host.key"),
    }


def test_model_replica_leaves_a_whole_copy_alone(
    call: Call, site: dict[str, object], tmp_path: Path
) -> None:
    done = call(model_release, **site)
    arguments = replica_arguments(site, tmp_path, str(site["store"]))
    held = call(model_replica, **arguments, release_sha256=done["release"]["sha256"])
    assert not held["changed"]
    assert held["replica"]["verified"]
    assert held["diff"]["before"] == held["diff"]["after"]
    assert "signed twice" in call(model_replica, **arguments, release_sha256="0" * 64)["msg"]


def test_model_replica_without_a_copy(call: Call, site: dict[str, object], tmp_path: Path) -> None:
    arguments = replica_arguments(site, tmp_path, str(tmp_path / "empty"))
    predicted = call(model_replica, check_mode=True, **arguments)
    assert predicted["changed"]
    assert "No such file" in predicted["rebuild_reason"]
    assert not (tmp_path / "empty").exists()
    failed = call(model_replica, **arguments)
    assert failed["failed"]
    assert "no sources are configured" in failed["msg"]
    unable = call(model_replica, **arguments, sources=["https://127.0.0.1:1"])
    assert f"{tmp_path}/ca.pem is missing on this host" in unable["msg"]
