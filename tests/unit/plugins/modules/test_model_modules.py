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

from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.files import list_directory
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.hashing import (
    hash_file,
    sha256_file,
    sha256_hex,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.artifacts.manifest import (
    canonical_json,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import Precision
from ansible_collections.onprem.deepseek.plugins.module_utils.store.recipes import Tools
from ansible_collections.onprem.deepseek.plugins.modules import (
    checkpoint_info,
    engine_release,
    engine_replica,
    model_release,
    model_release_info,
    model_replica,
    model_retire,
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


def sign_directory(key: ec.EllipticCurvePrivateKey, directory: str) -> None:
    resources = [
        {
            "name": path,
            "algorithm": "sha256",
            "digest": hash_file(os.path.join(directory, path)).sha256,
        }
        for path in list_directory(directory)
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
    Path(directory, "model.sig").write_text(json.dumps({"dsseEnvelope": envelope}))


def export(_checkpoint: str, out: str) -> None:
    os.mkdir(out)
    Path(out, "decoder.onnx").write_bytes(b"graph")


def prepare(_graph: str, out: str, precision: Precision) -> None:
    export("", out)
    held_out = sha256_file(precision.held_out)
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
        lambda directory: sign_directory(key, directory),
        lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())),
        lambda _checkpoint: [],
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


def test_checkpoint_info_has_the_serving_package_read_it_where_it_is_installed(
    call: Call, site: dict[str, object], tmp_path: Path
) -> None:
    program = tmp_path / "venv" / "bin" / "deepseek-check"
    asked = {"path": site["checkpoint"], "venv": str(tmp_path / "venv")}
    absent = call(checkpoint_info, fail_on_problems=True, **asked)
    assert absent["checkpoint"]["read_by_service"] is False
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho noise; echo warning: two readers\n")
    program.chmod(0o755)
    read = call(checkpoint_info, fail_on_problems=True, **asked)["checkpoint"]
    assert (read["read_by_service"], read["warnings"]) == (True, ["two readers"])
    program.write_text(
        "#!/bin/sh\n"
        "echo deepseek-check: tokenizer_config.json: the chat template is wrong >&2; exit 1\n"
    )
    failed = call(checkpoint_info, fail_on_problems=True, **asked)
    assert "could not load it: tokenizer_config.json: the chat template is wrong" in failed["msg"]
    # what is wrong without it comes first, and then it is not asked
    Path(str(site["checkpoint"]), "tokenizer.json").write_text("")
    failed = call(checkpoint_info, **asked)["checkpoint"]
    assert [item["problem"] for item in failed["problems"]] == ["it is empty"]
    assert not failed["read_by_service"]


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


def test_model_release_without_a_graph(call: Call, site: dict[str, object]) -> None:
    config = Path(str(site["checkpoint"])) / "config.json"
    content = json.loads(config.read_text()) | {"architectures": ["DeepseekV3ForCausalLM"]}
    config.write_text(json.dumps(content))
    assert "set deepseek_export to false" in call(model_release, **site)["msg"]
    predicted = call(model_release, check_mode=True, **site, export=False)
    assert predicted["changed"]
    done = call(model_release, **site, export=False)
    assert done["release"] == predicted["release"]
    assert (done["release"]["graphs"], done["rebuild_reason"]) == ({}, "")
    assert not call(model_release, **site, export=False)["changed"]
    listed = info(call, site, kinds=["checkpoint"], fail_on_problems=True)
    assert listed["releases"][0]["graphs"] == {}
    lacking = info(call, site, precisions=["fp32"], fail_on_problems=True)
    assert "has no graph of precision fp32 (it has none)" in lacking["msg"]


def test_a_version_with_a_graph_cannot_be_published_without(
    call: Call, site: dict[str, object]
) -> None:
    call(model_release, **site)
    refused = call(model_release, **site, export=False)
    assert "is already published in fp32, and asked for is none." in refused["msg"]


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
    graph = Path(release["artifacts"][1]["path"], "decoder.onnx")
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


def test_model_replica_pulls_from_a_mount_and_keeps_what_was_served(
    call: Call, site: dict[str, object], tmp_path: Path
) -> None:
    call(model_release, **site)
    served = tmp_path / "served.json"
    served.write_text("no list")
    arguments = {
        **replica_arguments(site, tmp_path, str(tmp_path / "cache")),
        "sources": [f"file://{site['store']}"],
        "evict": True,
        "served": str(served),
    }
    assert "does not say which releases" in call(model_replica, **arguments)["msg"]
    assert not (tmp_path / "cache").exists()
    served.unlink()
    held = call(model_replica, **arguments)
    assert held["changed"]
    assert held["replica"]["verified"]
    assert held["evicted"] == []
    assert not call(model_replica, **arguments)["changed"]


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


def test_model_release_info_asks_sources_only_with_credentials(
    call: Call, site: dict[str, object], tmp_path: Path
) -> None:
    call(model_release, **site)
    assert info(call, site)["releases"][0]["replicas"] == []
    sources = ["https://127.0.0.1:1"]
    assert "not ca, certificate" in info(call, site, sources=sources)["msg"]
    arguments = replica_arguments(site, tmp_path, "")
    names = {name: arguments[name] for name in ("ca", "certificate", "private_key")}
    assert "ca.pem is missing" in info(call, site, sources=sources, **names)["msg"]


def test_model_retire_predicts_does_and_repeats(call: Call, site: dict[str, object]) -> None:
    call(model_release, **site)
    names = ("store", "public_key", "model", "version")
    arguments = {name: site[name] for name in names} | {"keep": ["2.0.0"]}
    assert "is in use" in call(model_retire, **{**arguments, "keep": ["1.0.0"]})["msg"]
    predicted = call(model_retire, check_mode=True, **arguments)
    assert info(call, site)["releases"][0]["signature"] == "valid"
    done = call(model_retire, **arguments)
    assert done["changed"]
    assert done["removed"] == predicted["removed"]
    assert done["diff"]["before"].splitlines() == done["removed"]
    assert len(done["removed"]) == 4
    assert info(call, site)["releases"] == []
    assert not call(model_retire, **arguments)["changed"]
    assert "was retired" in call(model_release, **site)["msg"]


# --- precisions and engines -----------------------------------------------------------------------


@pytest.fixture
def in_fp16(site: dict[str, object], tmp_path: Path) -> dict[str, object]:
    """Arguments of model_release for a second precision."""
    (tmp_path / "held-out.jsonl").write_text('"text"\n')
    return {
        **site,
        "precisions": [{"name": "fp16", "held_out": str(tmp_path / "held-out.jsonl")}],
    }


def test_checkpoint_info_looks_at_the_texts_too(call: Call, site: dict[str, object]) -> None:
    failed = call(
        checkpoint_info,
        path=site["checkpoint"],
        precisions=[{"name": "fp8", "held_out": "/nowhere"}],
        fail_on_problems=True,
    )
    assert "fp8: it quantises activations and has no calibration text" in failed["msg"]
    assert "/nowhere: the held_out text of fp8 cannot be read" in failed["msg"]


def test_model_release_with_a_prepared_precision(call: Call, in_fp16: dict[str, object]) -> None:
    predicted = call(model_release, check_mode=True, **in_fp16)
    assert predicted["diff"]["after"].endswith(
        "; fp16: the fp32 graph that it is made from is new\n"
    )
    done = call(model_release, **in_fp16)
    assert sorted(done["release"]["graphs"]) == ["fp16", "fp32"]
    for check_mode in (True, False):
        again = call(model_release, check_mode=check_mode, **in_fp16)
        assert not again["changed"]
        assert again["diff"]["before"] == again["diff"]["after"]
    refused = call(model_release, **{**in_fp16, "precisions": []})
    assert "already published in fp16, fp32, and asked for is fp32" in refused["msg"]
    (found,) = info(call, in_fp16, kinds=["graph"], precisions=["fp16"])["releases"]
    assert [item["digest"] for item in found["artifacts"]] == [done["release"]["graphs"]["fp16"]]
    unknown = info(call, in_fp16, precisions=["int8"])
    assert "has no graph of precision int8 (it has fp16, fp32)" in unknown["msg"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, []),
        ({"max_len": None, "slots": 4}, ["--slots", "4"]),
        (
            {"held_out": "/h", "min_top1_agreement": 0.0},
            ["--held-out", "/h", "--min-top1-agreement", "0.0"],
        ),
    ],
)
def test_options_without_a_value_are_left_out(values: dict[str, object], words: list[str]) -> None:
    assert model_release.options(values) == words


@pytest.fixture
def built(
    call: Call,
    site: dict[str, object],
    tmp_path: Path,
    key: ec.EllipticCurvePrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, object]:
    """Arguments of engine_release for a build of the published graph."""
    graph = call(model_release, **site)["release"]["graphs"]["fp32"]
    directory = tmp_path / "build"
    directory.mkdir()
    document = {
        "graph": {"decoder.onnx": sha256_hex(b"graph")},
        "tensorrt": {"flavour": "tensorrt", "version": "10.15.1"},
    }
    (directory / "key.json").write_bytes(canonical_json(document))
    (directory / "engine.plan").write_bytes(b"plan")
    (directory / "golden.json").write_text("{}")
    monkeypatch.setattr(
        engine_release, "directory_signer", lambda _module: lambda path: sign_directory(key, path)
    )
    shared = ("store", "model", "venv", "public_key", "module_path", "token", "pin_file")
    return {"directory": str(directory), "graph": graph, **{name: site[name] for name in shared}}


def test_engine_release_predicts_stores_and_repeats(call: Call, built: dict[str, object]) -> None:
    predicted = call(engine_release, check_mode=True, **built)
    assert predicted["changed"]
    assert "this host has no copy" in predicted["rebuild_reason"]
    assert not Path(predicted["engine"]["path"]).exists()
    done = call(engine_release, **built)
    assert {key: done[key] for key in ("changed", "engine", "diff")} == {
        key: predicted[key] for key in ("changed", "engine", "diff")
    }
    assert Path(done["engine"]["path"], "engine.plan").read_bytes() == b"plan"
    for check_mode in (True, False):
        again = call(engine_release, check_mode=check_mode, **built)
        assert (again["changed"], again["rebuild_reason"]) == (False, "")
        assert again["diff"]["before"] == again["diff"]["after"]


def test_engine_release_refuses_with_the_reason(call: Call, built: dict[str, object]) -> None:
    assert "is not in the store" in call(engine_release, **{**built, "graph": "0" * 64})["msg"]
    assert "not a SHA-256" in call(engine_release, **{**built, "graph": "fp16"})["msg"]
    assert "cannot be read" in call(engine_release, **{**built, "directory": "/nowhere"})["msg"]


def test_engine_replica_holds_or_says_that_there_is_none(
    call: Call, built: dict[str, object], tmp_path: Path
) -> None:
    done = call(engine_release, **built)["engine"]
    arguments = replica_arguments(built, tmp_path, str(built["store"]))
    del arguments["version"]
    arguments.update(engine_key=done["key"], graph=done["graph"])
    held = call(engine_replica, **arguments)
    assert (held["state"], held["found"], held["changed"]) == ("present", True, False)
    assert held["engine"]["path"] == done["path"]
    assert held["diff"]["before"] == held["diff"]["after"]
    arguments["store"] = str(tmp_path / "empty")
    for check_mode in (True, False):
        none = call(engine_replica, check_mode=check_mode, **arguments)
        assert (none["state"], none["found"], none["changed"]) == ("absent", False, False)
        assert none["diff"]["before"] == none["diff"]["after"]
    assert not (tmp_path / "empty").exists()
    failed = call(engine_replica, required=True, **arguments)
    assert failed["failed"]
    assert "no source has it: no sources are configured" in failed["msg"]
    assert "not a SHA-256" in call(engine_replica, **{**arguments, "engine_key": "x"})["msg"]
