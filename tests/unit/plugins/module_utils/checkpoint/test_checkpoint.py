# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which checkpoints are accepted, and what is said about the others."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    files as checkpoint_files,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    inspect as checkpoint,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint import (
    weights as checkpoint_weights,
)

REPOSITORY = Path(__file__).resolve().parents[5]


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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "checkpoint")


def problems(path: Path) -> dict[str, str]:
    return {item.file: item.problem for item in checkpoint.inspect(str(path)).problems}


def exported(module: str, table: str) -> list[str]:
    """Keys of a table of the serving package, which is not installed where the module runs."""
    source = REPOSITORY / "serving" / "src" / "deepseek_serving" / "export" / f"{module}.py"
    tables = [
        node.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id == table
    ]
    assert len(tables) == 1
    assert isinstance(tables[0], ast.Dict)
    return [ast.literal_eval(key) for key in tables[0].keys if key is not None]


def test_exactly_what_the_exporter_exports_is_supported() -> None:
    assert list(checkpoint.SUPPORTED_ARCHITECTURES) == exported("architecture", "ARCHITECTURES")
    assert list(checkpoint.SUPPORTED_ROPE_SCALINGS) == exported("rope", "SCALINGS")


def test_the_checkpoint_that_is_shipped_is_accepted() -> None:
    report = checkpoint.inspect(str(REPOSITORY / "tests" / "fixtures" / "checkpoint"))
    assert report.problems == []
    assert report.shards == ["model.safetensors"]


@pytest.mark.parametrize("architecture", checkpoint.SUPPORTED_ARCHITECTURES)
def test_a_whole_checkpoint_has_no_problems(tmp_path: Path, architecture: str) -> None:
    report = checkpoint.inspect(str(write(tmp_path / "c", architecture)))
    assert report.problems == []
    assert report.supported
    assert report.shards == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert report.size == sum(item.stat().st_size for item in (tmp_path / "c").iterdir())


def test_a_single_file_is_accepted_and_hidden_files_are_left_out(folder: Path) -> None:
    for item in folder.glob("model*"):
        item.unlink()
    (folder / "model.safetensors").write_bytes(shard({"a": 10, "b": 20}))
    (folder / ".gitattributes").write_text("x")
    report = checkpoint.inspect(str(folder))
    assert report.problems == []
    assert report.shards == ["model.safetensors"]
    assert ".gitattributes" not in report.files


def test_an_unsupported_architecture_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    report = checkpoint.inspect(str(write(tmp_path / "c", "DeepseekV3ForCausalLM")))
    message = checkpoint.failure_message(report)
    assert "DeepseekV3ForCausalLM is not supported" in message
    assert all(name in message for name in checkpoint.SUPPORTED_ARCHITECTURES)


def test_without_an_export_any_architecture_will_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "DeepseekV3ForCausalLM")
    change_config(folder, quantization_config={"quant_method": "fp8"})
    report = checkpoint.inspect(str(folder), export=False)
    assert (report.problems, report.supported) == ([], False)
    (folder / "modeling_deepseek.py").write_text("import os")
    (folder / "tokenizer.json").unlink()
    report = checkpoint.inspect(str(folder), export=False)
    assert [problem.file for problem in report.problems] == [
        "modeling_deepseek.py",
        "tokenizer.json",
    ]


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised already (fp8)"),
        ({"quantization_config": [4]}, "quantised already (by no named method)"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary scaling 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary scaling 'longrope'"),
        ({"rope_scaling": "yes"}, "rotary scaling 'yes'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"layer_types": "sliding_attention"}, "sliding window"),
        (
            {"use_sliding_window": True, "max_window_layers": 3, "num_hidden_layers": 4},
            "sliding window",
        ),
    ],
)
def test_what_a_supported_architecture_may_not_have_is_named(
    folder: Path, changes: dict[str, object], problem: str
) -> None:
    change_config(folder, **changes)
    assert problem in problems(folder)["config.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.9}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "hidden_act": "silu"},
        {"rope_scaling": None, "use_sliding_window": False, "sliding_window": 4096},
        {"use_sliding_window": True, "sliding_window": None},
        {"use_sliding_window": True, "max_window_layers": 4, "num_hidden_layers": 4},
        {"use_sliding_window": True, "layer_types": ["full_attention"] * 4},
    ],
)
def test_what_it_may_have_is_accepted(folder: Path, changes: dict[str, object]) -> None:
    change_config(folder, **changes)
    assert problems(folder) == {}


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert list(problems(folder)) == ["model-00002-of-00002.safetensors"]
    assert "missing" in problems(folder)["model-00002-of-00002.safetensors"]


def test_a_truncated_shard_is_named_with_what_is_missing(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(shard({"b": 50}, missing=7))
    assert problems(folder) == {
        "model-00002-of-00002.safetensors": "it is truncated: 7 bytes of tensor data are missing"
    }


@given(st.integers(min_value=0))
def test_any_truncation_is_found(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    data = shard({"a": 100, "b": 7})
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(data[: cut % len(data)])
    with pytest.raises(checkpoint_files.CheckpointError):
        checkpoint_weights.read_tensors(str(path))


@given(st.binary(max_size=200))
def test_anything_else_is_not_a_shard(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(checkpoint_files.CheckpointError):
        checkpoint_weights.read_tensors(str(path))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [5], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
        {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]},
        {"dtype": "U8", "shape": [4]},
        [],
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, entry: object) -> None:
    raw = json.dumps({"a": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    with pytest.raises(checkpoint_files.CheckpointError, match="damaged"):
        checkpoint_weights.read_tensors(str(path))


def test_more_bytes_than_the_header_describes_are_refused(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert problems(folder) == {path.name: "it has 1 bytes more than its header describes"}


def test_a_shard_of_another_revision_is_found(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(shard({"c": 50}))
    assert "missing: b" in problems(folder)["model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.PT", "x.pkl", "modeling_evil.py", "sub/lib.so"]
)
def test_pickles_and_code_are_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert "refused" in problems(folder)[name]


def test_links_are_refused(folder: Path) -> None:
    real = folder / "model-00001-of-00002.safetensors"
    real.rename(folder.parent / "blob")
    real.symlink_to(folder.parent / "blob")
    assert problems(folder) == {real.name: "symbolic links are refused"}


@pytest.mark.parametrize("shard_name", ["../model.safetensors", "/etc/passwd", "x.bin", 3])
def test_an_index_that_leaves_the_folder_is_refused(folder: Path, shard_name: object) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": shard_name}})
    )
    assert "model.safetensors.index.json" in problems(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert problems(folder) == {name: "the file is missing"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"architectures": []}', '{"architectures": ["A", "B"]}', "[" * 5000]
)
def test_an_unusable_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert list(problems(folder)) == ["config.json"]


def test_no_folder_and_no_weights(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert problems(nowhere) == {str(nowhere): "there is no such directory"}
    (tmp_path / "empty").mkdir()
    assert "model.safetensors" in problems(tmp_path / "empty")


def test_all_problems_are_reported_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "x.pkl").write_bytes(b"x")
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert set(problems(folder)) == {"tokenizer.json", "x.pkl", "model-00001-of-00002.safetensors"}


# --- code, and the publisher's digests ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("modeling_deepseek.py", b"import os", "program code"),
        ("chat_template.jinja", b"#!/bin/sh", "program code"),
        ("LICENSE", b"\x7fELF\x02", "program code"),
        ("vocabulary.txt", b"\x80\x04\x95", "pickle"),
        ("extra.dat", b"PK\x03\x04", "pickle"),
        ("array.npy", b"\x93NUMPY", "pickle"),
    ],
)
def test_code_is_refused_by_name_and_by_content_unless_it_is_allowed(
    folder: Path, name: str, content: bytes, says: str
) -> None:
    (folder / name).write_bytes(content)
    assert says in problems(folder)[name]
    report = checkpoint.inspect(str(folder), allowed=[name])
    assert report.problems == []
    assert name in report.files


def test_a_safetensors_header_is_not_taken_for_code(folder: Path) -> None:
    """A header of 0x280 bytes begins as a pickle does."""
    raw = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    data = struct.pack("<Q", 0x280) + raw.ljust(0x280) + b"#"
    (folder / "model-00001-of-00002.safetensors").write_bytes(data)
    assert data.startswith(checkpoint_files.PICKLE_STARTS)
    assert problems(folder) == {}


def digests(folder: Path, line: str = "{digest}  {name}") -> str:
    return "".join(
        line.format(digest=hashlib.sha256(path.read_bytes()).hexdigest(), name=path.name) + "\n"
        for path in sorted(folder.iterdir())
    )


@pytest.mark.parametrize(
    "line",
    ["{digest}  {name}", "{digest} *{name}", "{digest}  ./{name}", "SHA256 ({name}) = {digest}"],
)
def test_a_list_of_digests_is_read_as_sha256sum_writes_it(
    folder: Path, tmp_path: Path, line: str
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text("# by the publisher\n\n" + digests(folder, line))
    read = checkpoint_files.read_checksums(str(path))
    assert sorted(read) == sorted(item.name for item in folder.iterdir())
    assert checkpoint.inspect(str(folder), checksums=str(path)).problems == []
    assert list(checkpoint.checksum_problems(str(path), read)) == []


def test_every_file_that_is_not_as_the_publisher_says_is_named(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(digests(folder))
    found = checkpoint_files.read_checksums(str(path))
    wrong = {**found, "config.json": "0" * 64, "tokenizer.json": "1" * 64, "more": "2" * 64}
    problems = list(checkpoint.checksum_problems(str(path), wrong))
    assert [problem.file for problem in problems] == ["config.json", "tokenizer.json"]
    assert f"its SHA-256 is {'0' * 64}, and {path} says {found['config.json']}" in str(problems[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no file"),
        ("abc  config.json\n", "line 1 is not"),
        (f"{'0' * 64}  a\n{'1' * 64}  ./a\n", "line 2 gives a another digest"),
        (f"{'0' * 64}  config.json\n", "has no digest of it"),
    ],
)
def test_a_list_that_says_too_little_is_refused(
    folder: Path, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(text)
    report = checkpoint.inspect(str(folder), checksums=str(path))
    assert any(says in problem.problem for problem in report.problems)


def test_a_list_that_cannot_be_read_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        report = checkpoint.inspect(str(folder), checksums=str(tmp_path / name))
        assert [problem.file for problem in report.problems] == [str(tmp_path / name)]


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        ("utf-8-sig", lambda text: text),
        ("utf-16", lambda text: text),
        ("utf-16", lambda text: text.replace("\n", "\r\n")),
        ("utf-8", lambda text: text.replace("\n", "\r\n")),
        ("utf-8", lambda text: text.replace("  ", "\t")),
        ("utf-8", lambda text: text.replace("\n", " \t\n")),
        ("utf-8", lambda text: text.upper().replace("MODEL", "model").rstrip("\n")),
    ],
    ids=["bom", "utf-16", "utf-16 and crlf", "crlf", "tab", "trailing blanks", "upper case"],
)
def test_a_list_of_digests_is_taken_as_editors_elsewhere_leave_it(
    folder: Path, tmp_path: Path, encoding: str, change: Callable[[str], str]
) -> None:
    name = "model-00001-of-00002.safetensors"
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path = tmp_path / "SHA256SUMS"
    text = change(f"{digest}  {name}\n")
    path.write_bytes(text.encode(encoding))
    assert list(checkpoint_files.read_checksums(str(path)).values()) == [digest]


def test_a_name_in_a_list_of_digests_may_hold_what_python_takes_for_the_end_of_a_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(
        f"{'0' * 64}  a\u2028b\x0cc\n{'1' * 64}  d\u0085\n", encoding="utf-8", newline=""
    )
    assert list(checkpoint_files.read_checksums(str(path))) == ["a\u2028b\x0cc", "d\u0085"]


# --- what would only be noticed when it is served -------------------------------------------------

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 7031645\n"
JSON_NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize(
    "name",
    [*JSON_NAMES, "model.safetensors.index.json", "model-00002-of-00002.safetensors", "x.txt"],
)
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(
    folder: Path, name: str
) -> None:
    (folder / name).write_text(POINTER)
    found = {item.file: item for item in checkpoint.inspect(str(folder)).problems}
    assert list(found) == [name]
    assert "git-lfs pointer" in found[name].problem
    assert "git lfs pull" in found[name].remedy


@pytest.mark.parametrize("name", [*JSON_NAMES, "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b'{"a": [1, 2', "seems to be cut"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark of UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "byte order mark of UTF-16"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"<html>404</html>", "cannot be read as JSON"),
    ],
    ids=["empty", "blank", "cut", "not utf-8", "bom", "utf-16", "nested", "html"],
)
def test_a_file_that_its_reader_could_not_parse_is_named(
    folder: Path, name: str, content: bytes, says: str
) -> None:
    (folder / name).write_bytes(content)
    found = problems(folder)
    assert list(found) == [name]
    assert says in found[name]


def test_a_file_of_absurd_size_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as stream:
        stream.truncate(2**40)
    assert "and 67108864 is the most" in problems(folder)["tokenizer.json"]


def test_a_template_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{\0")
    assert "UTF-16" in problems(folder)["chat_template.jinja"]


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_list_where_an_object_is_needed_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("[]")
    assert problems(folder) == {name: "it is not a JSON object"}
    (folder / name).write_text("{}")
    (folder / "modules.json").write_text("[]")
    assert problems(folder) == {}


@pytest.mark.parametrize(
    "name",
    [
        "model-00003-of-00003.safetensors.aria2",
        "model.safetensors.part",
        "model-00001-of-00002.safetensors.incomplete",
        "Unconfirmed 12345.crdownload",
        "tokenizer.json.lock",
        "deep/model.safetensors.PARTIAL",
        ".cache/huggingface/download/abc.incomplete",
        ".model.safetensors.aria2",
    ],
)
def test_what_a_download_leaves_while_it_runs_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert "download is not finished" in problems(folder)[name]


def test_what_a_finished_download_leaves_is_not(folder: Path) -> None:
    hidden = folder / ".cache" / "huggingface" / "download"
    hidden.mkdir(parents=True)
    (hidden / "config.json.lock").write_bytes(b"")
    (hidden / "config.json.metadata").write_text("x")
    assert problems(folder) == {}


def run_of_zeros(folder: Path, before: int, zeros: int) -> None:
    """One tensor of 5 MiB, with zeros in it that were written."""
    size = 5 * 2**20
    data = shard({"model.w": size, "other": 9})
    start = len(data) - size - 9
    body = b"\x01" * before + bytes(zeros) + b"\x01" * (size - before - zeros) + b"\x01" * 9
    (folder / "model-00001-of-00002.safetensors").write_bytes(data[:start] + body)
    index = folder / "model.safetensors.index.json"
    names = {"model.w": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("before", [0, 1, 2**19, 2**19 + 1, 2**20 - 1, 3_000_001, 4 * 2**20])
def test_a_part_that_was_never_downloaded_is_found_wherever_it_begins(
    folder: Path, before: int
) -> None:
    run_of_zeros(folder, before, 2**20)
    (found,) = checkpoint.inspect(str(folder)).problems
    assert "tensor model.w has over 1048576 zeros in a row" in found.problem
    assert "model_release_zero_tensors" in found.remedy
    for accepted in (["model.w"], ["model.*"]):
        assert checkpoint.inspect(str(folder), zero_tensors=accepted).problems == []


def test_less_than_that_is_weights(folder: Path) -> None:
    run_of_zeros(folder, 700_000, 2**20 - 1)
    assert problems(folder) == {}


@given(before=st.integers(0, 3 * 2**20), zeros=st.integers(2**20 - 2, 2**20 + 2))
@settings(max_examples=20, deadline=None)
def test_any_run_of_zeros_is_found_if_and_only_if_it_is_long(before: int, zeros: int) -> None:
    body = b"\x01" * before + bytes(zeros) + b"\x01" * 100
    found = checkpoint_weights._zeros(io.BytesIO(body), 0, len(body))
    assert found == (before if zeros >= 2**20 else None)


def test_space_that_was_reserved_and_never_written_is_found_without_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of_zeros(folder, 0, 0)
    path = folder / "model-00001-of-00002.safetensors"
    size = path.stat().st_size
    data = path.read_bytes()
    path.write_bytes(data[:8192])
    with path.open("r+b") as stream:
        stream.truncate(size)
        stream.seek(size - 100_000)
        stream.write(data[-100_000:])
    monkeypatch.setattr(checkpoint, "READ_LIMIT", 0)
    monkeypatch.setattr(checkpoint_weights, "_zeros", None)
    assert "zeros in a row" in problems(folder)[path.name]


@pytest.mark.parametrize("name", ["model.safetensors", "consolidated.safetensors"])
def test_weights_beside_an_index_that_does_not_name_them_are_refused(
    folder: Path, name: str
) -> None:
    (folder / name).write_bytes(shard({"a": 100}))
    assert "which does not name it" in problems(folder)[name]


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(shard({"a": 100, "b": 50}))
    found = problems(folder)["model-00002-of-00002.safetensors"]
    assert "tensor a is here and in model-00001-of-00002.safetensors" in found


def tied(folder: Path, tensors: dict[str, bytes]) -> dict[str, str]:
    change_config(folder, tie_word_embeddings=True)
    for item in folder.glob("model*"):
        item.unlink()
    data = shard({name: len(body) for name, body in tensors.items()})
    size = sum(map(len, tensors.values()))
    body = b"".join(tensors.values())
    (folder / "model.safetensors").write_bytes(data[: len(data) - size] + body)
    return problems(folder)


@pytest.mark.parametrize("head", [b"x" * 100, b"y" * 99 + b"z", b"y" * 99])
def test_a_tied_model_with_another_output_table_is_refused(folder: Path, head: bytes) -> None:
    found = tied(folder, {"model.embed_tokens.weight": b"y" * 100, "lm_head.weight": head})
    assert "tie_word_embeddings" in found["model.safetensors"]


def test_a_tied_model_may_have_a_copy_of_the_table_or_none(folder: Path) -> None:
    tables = {"model.embed_tokens.weight": b"y" * 100, "lm_head.weight": b"y" * 100}
    assert tied(folder, tables) == {}
    del tables["lm_head.weight"]
    assert tied(folder, tables) == {}
    tables["lm_head.weight"] = b"z" * 100
    tied(folder, tables)
    change_config(folder, tie_word_embeddings=False)
    assert problems(folder) == {}
