# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which checkpoints are accepted, and what is said about the others."""

from __future__ import annotations

import ast
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_checkpoint import JSON_NAMES, change_config, problems, shard, write

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


def test_a_single_file_is_accepted_and_hidden_files_are_left_out(directory: Path) -> None:
    for item in directory.glob("model*"):
        item.unlink()
    (directory / "model.safetensors").write_bytes(shard({"a": 10, "b": 20}))
    (directory / ".gitattributes").write_text("x")
    report = checkpoint.inspect(str(directory))
    assert report.problems == []
    assert report.shards == ["model.safetensors"]
    assert ".gitattributes" not in report.files


def test_an_unsupported_architecture_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    report = checkpoint.inspect(str(write(tmp_path / "c", "DeepseekV3ForCausalLM")))
    message = checkpoint.failure_message(report)
    assert "DeepseekV3ForCausalLM is not supported" in message
    assert all(name in message for name in checkpoint.SUPPORTED_ARCHITECTURES)


def test_without_an_export_any_architecture_will_do(tmp_path: Path) -> None:
    directory = write(tmp_path / "c", "DeepseekV3ForCausalLM")
    change_config(directory, quantization_config={"quant_method": "fp8"})
    report = checkpoint.inspect(str(directory), export=False)
    assert (report.problems, report.supported) == ([], False)
    (directory / "modeling_deepseek.py").write_text("import os")
    (directory / "tokenizer.json").unlink()
    report = checkpoint.inspect(str(directory), export=False)
    assert [problem.file for problem in report.problems] == [
        "modeling_deepseek.py",
        "tokenizer.json",
    ]


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
    directory: Path, changes: dict[str, object], problem: str
) -> None:
    change_config(directory, **changes)
    assert problem in problems(directory)["config.json"]


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
def test_what_it_may_have_is_accepted(directory: Path, changes: dict[str, object]) -> None:
    change_config(directory, **changes)
    assert problems(directory) == {}


def test_a_missing_shard_is_named(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").unlink()
    assert list(problems(directory)) == ["model-00002-of-00002.safetensors"]
    assert "missing" in problems(directory)["model-00002-of-00002.safetensors"]


def test_a_truncated_shard_is_named_with_what_is_missing(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").write_bytes(shard({"b": 50}, missing=7))
    assert problems(directory) == {
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


def test_more_bytes_than_the_header_describes_are_refused(directory: Path) -> None:
    path = directory / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    assert problems(directory) == {path.name: "it has 1 bytes more than its header describes"}


def test_a_shard_of_another_revision_is_found(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").write_bytes(shard({"c": 50}))
    assert "missing: b" in problems(directory)["model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "weights.PT", "x.pkl", "modeling_evil.py", "sub/lib.so"]
)
def test_pickles_and_code_are_refused(directory: Path, name: str) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes(b"x")
    assert "refused" in problems(directory)[name]


def test_links_are_refused(directory: Path) -> None:
    real = directory / "model-00001-of-00002.safetensors"
    real.rename(directory.parent / "blob")
    real.symlink_to(directory.parent / "blob")
    assert problems(directory) == {real.name: "symbolic links are refused"}


@pytest.mark.parametrize("shard_name", ["../model.safetensors", "/etc/passwd", "x.bin", 3])
def test_an_index_that_leaves_the_directory_is_refused(directory: Path, shard_name: object) -> None:
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": shard_name}})
    )
    assert "model.safetensors.index.json" in problems(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert problems(directory) == {name: "the file is missing"}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"architectures": []}', '{"architectures": ["A", "B"]}', "[" * 5000]
)
def test_an_unusable_config_is_refused(directory: Path, content: str) -> None:
    (directory / "config.json").write_text(content)
    assert list(problems(directory)) == ["config.json"]


def test_no_directory_and_no_weights(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert problems(nowhere) == {str(nowhere): "there is no such directory"}
    (tmp_path / "empty").mkdir()
    assert "model.safetensors" in problems(tmp_path / "empty")


def test_all_problems_are_reported_at_once(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    (directory / "x.pkl").write_bytes(b"x")
    (directory / "model-00001-of-00002.safetensors").unlink()
    assert set(problems(directory)) == {
        "tokenizer.json",
        "x.pkl",
        "model-00001-of-00002.safetensors",
    }


# --- code ----------------------------------------------------------------------------------------


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
    directory: Path, name: str, content: bytes, says: str
) -> None:
    (directory / name).write_bytes(content)
    assert says in problems(directory)[name]
    report = checkpoint.inspect(str(directory), allowed=[name])
    assert report.problems == []
    assert name in report.files


def test_a_safetensors_header_is_not_taken_for_code(directory: Path) -> None:
    """A header of 0x280 bytes begins as a pickle does."""
    raw = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    data = struct.pack("<Q", 0x280) + raw.ljust(0x280) + b"#"
    (directory / "model-00001-of-00002.safetensors").write_bytes(data)
    assert data.startswith(checkpoint_files.PICKLE_STARTS)
    assert problems(directory) == {}


# --- what would only be noticed when it is served -------------------------------------------------


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
    directory: Path, name: str, content: bytes, says: str
) -> None:
    (directory / name).write_bytes(content)
    found = problems(directory)
    assert list(found) == [name]
    assert says in found[name]


def test_a_file_of_absurd_size_is_refused_before_it_is_read(directory: Path) -> None:
    with (directory / "tokenizer.json").open("r+b") as stream:
        stream.truncate(2**40)
    assert "and 67108864 is the most" in problems(directory)["tokenizer.json"]


def test_a_template_that_is_no_text_is_named(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe{\0")
    assert "UTF-16" in problems(directory)["chat_template.jinja"]


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_list_where_an_object_is_needed_is_refused(directory: Path, name: str) -> None:
    (directory / name).write_text("[]")
    assert problems(directory) == {name: "it is not a JSON object"}
    (directory / name).write_text("{}")
    (directory / "modules.json").write_text("[]")
    assert problems(directory) == {}


@pytest.mark.parametrize("name", ["model.safetensors", "consolidated.safetensors"])
def test_weights_beside_an_index_that_does_not_name_them_are_refused(
    directory: Path, name: str
) -> None:
    (directory / name).write_bytes(shard({"a": 100}))
    assert "which does not name it" in problems(directory)[name]


def test_a_tensor_in_two_shards_is_refused(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").write_bytes(shard({"a": 100, "b": 50}))
    found = problems(directory)["model-00002-of-00002.safetensors"]
    assert "tensor a is here and in model-00001-of-00002.safetensors" in found


def tied(directory: Path, tensors: dict[str, bytes]) -> dict[str, str]:
    change_config(directory, tie_word_embeddings=True)
    for item in directory.glob("model*"):
        item.unlink()
    data = shard({name: len(body) for name, body in tensors.items()})
    size = sum(map(len, tensors.values()))
    body = b"".join(tensors.values())
    (directory / "model.safetensors").write_bytes(data[: len(data) - size] + body)
    return problems(directory)


@pytest.mark.parametrize("head", [b"x" * 100, b"y" * 99 + b"z", b"y" * 99])
def test_a_tied_model_with_another_output_table_is_refused(directory: Path, head: bytes) -> None:
    found = tied(directory, {"model.embed_tokens.weight": b"y" * 100, "lm_head.weight": head})
    assert "tie_word_embeddings" in found["model.safetensors"]


def test_a_tied_model_may_have_a_copy_of_the_table_or_none(directory: Path) -> None:
    tables = {"model.embed_tokens.weight": b"y" * 100, "lm_head.weight": b"y" * 100}
    assert tied(directory, tables) == {}
    del tables["lm_head.weight"]
    assert tied(directory, tables) == {}
    tables["lm_head.weight"] = b"z" * 100
    tied(directory, tables)
    change_config(directory, tie_word_embeddings=False)
    assert problems(directory) == {}
