"""Signing with a key in a token, and the refusal of whatever was changed afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import model_signing
import pytest
from support import (
    LFS_POINTER,
    MODEL,
    VERSION,
    Authority,
    Token,
    refused,
    rewrite,
    settings_text,
    write_artifact,
    write_release,
)

from deepseek_serving.artifacts.manifest import canonical_json
from deepseek_serving.errors import EX_CONFIG, VerificationError
from deepseek_serving.trust.cli import verify_main
from deepseek_serving.trust.release import verify_artifact, verify_release


def graph_folder(store: Path) -> Path:
    (folder,) = (store / "graph" / MODEL).iterdir()
    return folder


def flip(path: Path, position: int = -1) -> None:
    """Change one byte, and nothing else about the file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    rewrite(path, bytes(data))


def link_away(folder: Path) -> None:
    """The same bytes, but from outside the directory."""
    elsewhere = folder.parents[2] / "elsewhere"
    (folder / "config.json").rename(elsewhere)
    (folder / "config.json").symlink_to(elsewhere)


def test_a_signed_release_verifies(store: Path, token: Token) -> None:
    release = verify_release(store, MODEL, VERSION, token.public_key)
    assert release.graph == graph_folder(store)
    assert release.digest == release.graph.name
    assert release.header == f"{MODEL}/{VERSION}@{release.digest[:12]}"


def test_deepseek_verify(store: Path, token: Token, capsys: pytest.CaptureFixture[str]) -> None:
    folder = graph_folder(store)
    arguments = [str(folder), "--public-key", str(token.public_key)]
    assert verify_main([*arguments, "--digest", folder.name]) == 0
    assert folder.name in capsys.readouterr().out
    assert verify_main([*arguments, "--digest", "0" * 64]) == 1
    assert "changed after signing" in capsys.readouterr().err
    flip(folder / "tokenizer.json")
    assert verify_main(arguments) == 1
    assert "tokenizer.json: changed after signing (expected " in capsys.readouterr().err


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "one byte of the weights": (
        lambda f: flip(f / "decoder.onnx.data", 1000),
        r"decoder.onnx.data: changed after signing",
    ),
    "one byte of the graph": (lambda f: flip(f / "decoder.onnx"), "decoder.onnx: changed after"),
    "a file cut short": (
        lambda f: rewrite(f / "decoder.onnx.data", b"x"),
        r"decoder.onnx.data: changed after signing \(expected \d+ bytes, found 1\)",
    ),
    "a missing file": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "a file too many": (
        lambda f: (f / "chat_template.jinja").touch(),
        "chat_template.jinja: in the directory, and not in its manifest",
    ),
    "another manifest": (lambda f: flip(f / "manifest.json"), "manifest.json: changed after"),
    "other pieces": (lambda f: flip(f / "pieces.meta4"), "pieces.meta4: changed after signing"),
    "no signature": (lambda f: (f / "model.sig").unlink(), "model.sig: missing"),
    "another signature": (
        lambda f: flip(f / "model.sig", 200),
        "model.sig: not accepted",
    ),
    "a link instead of a file": (
        link_away,
        "config.json: type",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_changed_graph_is_refused(
    store: Path, token: Token, change: Callable[[Path], None], message: str
) -> None:
    change(graph_folder(store))
    with pytest.raises(VerificationError, match=message):
        verify_release(store, MODEL, VERSION, token.public_key)


def test_a_changed_release_file_is_refused(store: Path, token: Token) -> None:
    path = store / "releases" / MODEL / f"{VERSION}.json"
    release = json.loads(path.read_bytes())
    path.write_bytes(canonical_json({**release, "checkpoint": "1" * 64}))
    with pytest.raises(VerificationError, match="the release signature does not verify"):
        verify_release(store, MODEL, VERSION, token.public_key)


def test_a_release_under_another_name_is_refused(store: Path, token: Token) -> None:
    folder = store / "releases" / MODEL
    for suffix in (".json", ".json.sig"):
        shutil.copy(folder / f"{VERSION}{suffix}", folder / f"2.0.0{suffix}")
    with pytest.raises(VerificationError, match=r"release is for version '1\.0\.0', not '2\.0\.0'"):
        verify_release(store, MODEL, "2.0.0", token.public_key)
    with pytest.raises(VerificationError, match="names no int8 graph"):
        verify_release(store, MODEL, VERSION, token.public_key, graph="int8")
    with pytest.raises(VerificationError, match=r"3\.0\.0\.json: cannot be read"):
        verify_release(store, MODEL, "3.0.0", token.public_key)


def test_a_graph_signed_with_another_key_is_refused(
    store: Path, token: Token, authority: Authority
) -> None:
    _certificate, key = authority.issue("stranger")
    other = key.with_suffix(".pub")
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-out", other], check=True, capture_output=True
    )
    folder = graph_folder(store)
    with pytest.raises(VerificationError, match=r"model\.sig does not verify"):
        verify_artifact(folder, other)
    with pytest.raises(VerificationError, match="the release signature does not verify"):
        verify_release(store, MODEL, VERSION, other)
    key.with_suffix(".txt").write_text("no key", encoding="utf-8")
    with pytest.raises(VerificationError, match="not a PEM public key"):
        verify_artifact(folder, key.with_suffix(".txt"))


def test_a_path_out_of_the_directory_cannot_be_listed(store: Path, token: Token) -> None:
    (store / "outside").write_text("x", encoding="utf-8")
    folder = graph_folder(store)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["../outside"] = {"size": 1, "sha256": "0" * 64}
    rewrite(folder / "manifest.json", canonical_json(manifest))
    with pytest.raises(VerificationError, match=r"'\.\./outside' contains the component '\.\.'"):
        verify_artifact(folder, token.public_key)


def test_what_is_signed_here_verifies_with_the_library_that_others_use(
    store: Path, token: Token
) -> None:
    """The service checks model.sig with code of its own; anybody else can with model-signing."""
    folder = graph_folder(store)
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=token.public_key)
    hashing = model_signing.hashing.Config().set_ignored_paths(
        paths=["model.sig"], ignore_git_paths=False
    )
    config.set_hashing_config(hashing).verify(folder, folder / "model.sig")
    flip(folder / "config.json")
    with pytest.raises(ValueError, match=r"config\.json"):
        config.verify(folder, folder / "model.sig")


def test_what_does_not_sign_says_why_and_leaves_no_signature(tmp_path: Path, token: Token) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("content", encoding="utf-8")
    wrong_pin = tmp_path / "pin"
    wrong_pin.write_text("wrong", encoding="utf-8")
    empty_pin = tmp_path / "empty"
    empty_pin.touch()
    for change, message in (
        ({"key": "absent"}, "absent"),
        ({"token": "absent"}, "0 tokens behind"),
        ({"module": "/nonexistent.so"}, "no such PKCS#11 module"),
        ({"pin_file": str(wrong_pin)}, "CKR_PIN_INCORRECT"),
        ({"pin_file": str(empty_pin)}, "the PIN file is empty"),
        ({"pin_file": str(tmp_path / "none")}, "cannot be read"),
    ):
        result = token.run_sign(folder, **change)
        assert result.returncode == 1
        assert result.stderr.startswith("deepseek-sign: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "pin"]


def test_signing_again_replaces_the_signature(tmp_path: Path, graph: Path, token: Token) -> None:
    digest = write_artifact(tmp_path, graph, token, "checkpoint")
    folder = tmp_path / "checkpoint" / MODEL / digest
    before = (folder / "model.sig").read_bytes()
    assert token.run_sign(folder).returncode == 0
    assert (folder / "model.sig").read_bytes() != before
    assert verify_artifact(folder, token.public_key).digest == digest


def test_the_service_does_not_start_with_a_precision_that_the_release_lacks(
    store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    text = settings_text(store, token, authority).replace("[model]", '[model]\nprecision = "int8"')
    status, output = refused(tmp_path, text)
    assert status == EX_CONFIG
    assert "names no int8 graph (it names: fp32)" in output


@pytest.mark.parametrize("change", ["one byte of the weights", "no signature"])
def test_the_service_does_not_start_with_a_changed_release(
    store: Path, token: Token, authority: Authority, tmp_path: Path, change: str
) -> None:
    spoil, message = CHANGES[change]
    spoil(graph_folder(store))
    status, output = refused(tmp_path, settings_text(store, token, authority))
    assert status == EX_CONFIG
    (line,) = [line for line in output.splitlines() if line.startswith("deepseek-serve: ")]
    assert message.split(":")[0] in line
    assert "Traceback" not in output


def test_the_service_does_not_start_with_wrong_settings(
    store: Path, token: Token, authority: Authority, tmp_path: Path
) -> None:
    text = settings_text(store, token, authority)
    certificate, key = authority.issue("inference-1")
    for old, new, message in (
        ("port =", "prt =", "server.port: missing; server.prt: unknown setting"),
        (f'version = "{VERSION}"', 'version = "9"', "9.json: cannot be read"),
        ("threads = 2", "max_len = 4096", "engine.max_len is 4096, the graph was exported"),
        (f"/{key.name}", "/absent.key", "absent.key: cannot be read"),
        (f"/{key.name}", f"/{certificate.name}", "are not a certificate and its key"),
    ):
        assert old in text
        status, output = refused(tmp_path, text.replace(old, new))
        assert status == EX_CONFIG, output
        assert message in output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", LFS_POINTER, "tokenizer.json: a git-lfs pointer"),
        ("tokenizer_config.json", '{"chat_template": "{{ 1 | batch(1) }}"}', "No filter named"),
        ("generation_config.json", '{"eos_token_id": "</s>"}', "must be a token's number"),
        ("export.json", "{}", "publish the model again"),
    ],
)
def test_the_service_ends_for_good_with_a_signed_release_that_it_cannot_read(
    graph: Path,
    token: Token,
    authority: Authority,
    tmp_path: Path,
    file: str,
    content: str,
    says: str,
) -> None:
    """Status 78, after which systemd does not start it again."""
    shutil.copytree(graph, tmp_path / "graph")
    (tmp_path / "graph" / file).write_text(content, encoding="utf-8")
    write_release(tmp_path / "store", tmp_path / "graph", token)
    status, output = refused(tmp_path, settings_text(tmp_path / "store", token, authority))
    assert status == EX_CONFIG, output
    (line,) = [line for line in output.split("\n") if line.startswith("deepseek-serve: ")]
    assert says in line
    assert "Traceback" not in output
