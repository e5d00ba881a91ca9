"""Engines built for real with TensorRT-RTX and ONNX Runtime: once, whole, and again when needed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engines import (
    A100,
    CPU,
    Place,
    arguments,
    edit,
    hidden,
    run_build,
    snapshot,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import CHECKPOINT, Texts, trained
from test_encoder import encoder_checkpoint
from waiting import PATIENCE, until

from deepseek_serving.compile import builder
from deepseek_serving.compile.builder import Outcome
from deepseek_serving.compile.cli import main
from deepseek_serving.compile.compiler import Options
from deepseek_serving.compile.hashes import HashCache
from deepseek_serving.compile.key import Key, Target, Tensorrt, differences, read_fields, summary
from deepseek_serving.compile.progress import Progress
from deepseek_serving.compile.target import Wish
from deepseek_serving.errors import BuildError
from deepseek_serving.export.exporter import export, export_encoder
from deepseek_serving.prepare.preparer import Options as Precision
from deepseek_serving.prepare.preparer import prepare
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

TARGETS = {"fp16": "8.0", "int8": "8.0", "int4": "8.0", "fp8": "8.9"}
KEPT = {".engine.lock", ".hashes.json"}
# of the graph with one layer
TENSORS = 4 + 2
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory, texts: Texts) -> Path:
    """An fp16 graph of one layer, of which engines are built in a third of the time."""
    folder = tmp_path_factory.mktemp("shallow")
    shutil.copytree(CHECKPOINT, folder / "checkpoint")
    edit(
        folder / "checkpoint" / "config.json",
        lambda config: config.update(num_hidden_layers=1, layer_types=config["layer_types"][:1]),
    )
    weights = folder / "checkpoint" / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(weights).items()
        if not re.search(r"\.layers\.[1-9]", name)
    }
    save_file(kept, weights, metadata={"format": "pt"})
    export(folder / "checkpoint", folder / "graph")
    prepare(folder / "graph", folder / "fp16", Precision("fp16", texts.held_out, None, threads=1))
    return folder / "fp16"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, shallow: Path) -> Place:
    """A graph and its engine for an A100."""
    return Place.make(tmp_path_factory.mktemp("engine") / "rtx", shallow, A100)


@pytest.fixture(scope="session")
def built_for_cpu(tmp_path_factory: pytest.TempPathFactory, prepared: dict[str, Path]) -> Place:
    return Place.make(tmp_path_factory.mktemp("engine") / "cpu", prepared["fp16"], CPU)


@pytest.fixture
def place(built: Place, tmp_path: Path) -> Place:
    """A copy that a test may change."""
    return built.copy(tmp_path)


@pytest.fixture
def cpu_place(built_for_cpu: Place, tmp_path: Path) -> Place:
    return built_for_cpu.copy(tmp_path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- what is built --------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "capability"), TARGETS.items())
def test_every_precision_is_built_once(
    prepared: dict[str, Path], tmp_path: Path, precision: str, capability: str
) -> None:
    graph, dest = prepared[precision] / "decoder.onnx", tmp_path / "store" / "engine"
    wish = Wish("tensorrt_rtx", capability)
    first = run_build(graph, dest, wish)
    assert first["changed"] is True
    assert first["rebuild_reason"] == f"there is no engine at {dest} yet"
    names = {"engine.plan", "key.json", "inspector.json", "build.log", "build.json"}
    names |= {path.name for path in prepared[precision].glob("golden.json")}
    assert {path.name for path in dest.iterdir()} == names
    assert {path.stat().st_mode & 0o777 for path in dest.iterdir()} == {0o644}
    assert dest.stat().st_mode & 0o777 == 0o755
    assert (dest / "engine.plan").stat().st_size > 10**6
    assert first["key"] == digest(dest / "key.json")
    fields = read_fields(dest / "key.json")
    assert fields == first["after"]
    assert fields["target"] == {"compute_capability": capability, "product": None}
    assert fields["graph"] == {
        path.name: digest(path) for path in prepared[precision].glob("decoder.onnx*")
    }
    assert (fields["calibration"] is not None) == (precision in ("int8", "fp8"))
    layers = json.loads((dest / "inspector.json").read_text())["Layers"]
    kinds = [layer["LayerType"] for layer in layers]
    assert kinds.count("KV_CACHE_UPDATE") == 2 * 4
    assert ("QUANTIZE" in kinds) == (precision in ("int8", "fp8"))
    assert "decoder.onnx" in (dest / "build.log").read_text()
    before = snapshot(dest)
    second = run_build(graph, dest, wish)
    assert (second["changed"], second["rebuild_reason"]) == (False, "")
    assert (second["key"], second["build"]) == (first["key"], first["build"])
    assert snapshot(dest) == before


def test_golden_inputs_come_along(prepared: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(prepared["fp16"], tmp_path / "graph")
    (tmp_path / "graph" / "golden.json").write_text('{"schema": 1}\n')
    place = Place(tmp_path, CPU)
    outcome = place.build()
    assert (place.dest / "golden.json").read_text() == '{"schema": 1}\n'
    assert "golden.json" in outcome.build["files"]


def test_nothing_to_do_does_not_import_tensorrt(place: Place) -> None:
    script = (
        "import sys; from deepseek_serving.compile.cli import main; status = main(sys.argv[1:]); "
        "print([name for name in sys.modules if name.startswith('tensorrt')], file=sys.stderr); "
        "raise SystemExit(status)"
    )
    line = [sys.executable, "-c", script, *arguments(place.graph, place.dest, A100)[1:]]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["changed"] is False
    assert done.stderr == "[]\n"


def test_a_text_encoder_is_built(tmp_path: Path) -> None:
    export_encoder(encoder_checkpoint(tmp_path / "checkpoint"), tmp_path / "graph")
    graph, dest = tmp_path / "graph" / "encoder.onnx", tmp_path / "engine"
    first = run_build(graph, dest, A100)
    assert first["after"]["preparation"] is None
    (profile,) = first["after"]["builder"]["profiles"]
    longest = json.loads((tmp_path / "graph" / "export.json").read_text())["parameters"]["max_len"]
    assert set(profile) == {"attention_mask", "input_ids", "token_type_ids"}
    assert all(shape["max"] == [32, longest] for shape in profile.values())
    assert (dest / "engine.plan").stat().st_size > 10**4
    assert run_build(graph, dest, A100)["changed"] is False


@pytest.mark.parametrize("precision", TARGETS)
def test_an_engine_for_the_cpu_answers_as_its_graph(
    prepared: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    graph, dest = prepared[precision], tmp_path / "engine"
    outcome = run_build(graph / "decoder.onnx", dest, CPU)
    assert {"engine.onnx", "engine.onnx.data"} <= set(outcome["build"]["files"])
    assert outcome["after"]["target"] == {"compute_capability": None, "product": None}
    operators = json.loads((dest / "inspector.json").read_text())["operators"]
    assert operators["GroupQueryAttention"] == 4
    # query, key and value at once, their output, and three of the MLP
    assert operators.get("MatMulNBits", 0) == (4 * 5 if precision == "int4" else 0)
    prompt = ChatTokenizer(graph).prompt([{"role": "user", "content": trained()[0][0]}])
    engines = [
        OnnxRuntimeEngine(graph, threads=1, optimized=optimized)
        for optimized in (None, dest / "engine.onnx")
    ]
    expected, found = (engine.prefill(0, prompt, 0) for engine in engines)
    for length in range(len(prompt), len(prompt) + 8):
        np.testing.assert_array_equal(found.tokens[:, :8], expected.tokens[:, :8])
        np.testing.assert_allclose(found.values, expected.values, atol=1e-2)
        last = [int(expected.tokens[0, 0])]
        expected, found = (engine.decode(last, [length]) for engine in engines)


# --- the key --------------------------------------------------------------------------------------


def _rewrite_graph(place: Place) -> dict[str, Any]:
    model = onnx.load(place.graph, load_external_data=False)
    model.doc_string = "another"
    place.graph.write_bytes(model.SerializeToString())
    return {}


def _append_to_weights(place: Place) -> dict[str, Any]:
    with place.graph.with_name("decoder.onnx.data").open("ab") as file:
        file.write(b"\0")
    return {}


def _other_tool(place: Place) -> dict[str, Any]:
    edit(place.record, lambda record: record["preparation"]["tools"].update(numpy="2.0.0"))
    return {}


def _other_argument(place: Place) -> dict[str, Any]:
    edit(place.record, lambda record: record["preparation"]["arguments"].update(window=256))
    return {}


def _own_profiles(place: Place) -> dict[str, Any]:
    """One profile in place of two."""
    (profile, _prefill) = read_fields(place.dest / "key.json")["builder"]["profiles"]
    path = place.folder / "profiles.json"
    path.write_text(json.dumps([profile]))
    return {"profiles": path}


CHANGES: dict[str, tuple[Callable[[Place], dict[str, Any]], str]] = {
    "graph": (_rewrite_graph, 'graph.decoder.onnx was "{graph}", is "'),
    "weights": (_append_to_weights, 'graph.decoder.onnx.data was "{weights}", is "'),
    "tool": (_other_tool, 'preparation.tools.numpy was "{numpy}", is "2.0.0"'),
    "argument": (_other_argument, "preparation.arguments.window was 512, is 256"),
    "slots": (
        lambda place: {"slots": 2},
        "builder.profiles.0.input_ids.max was [4, 1], is [2, 1]; "
        "builder.profiles.0.input_ids.opt was [4, 1], is [2, 1]; "
        "builder.profiles.0.past_key.0.max was [4, 2, 512, 32], is [2, 2, 512, 32]; ",
    ),
    "prefill chunk": (
        lambda place: {"prefill_chunk": 64},
        "builder.profiles.1.input_ids.max was [1, 128], is [1, 64]; "
        "builder.profiles.1.input_ids.opt was [1, 128], is [1, 64]; "
        "builder.profiles.1.position_ids.max was [1, 128], is [1, 64]; "
        "builder.profiles.1.position_ids.opt was [1, 128], is [1, 64]",
    ),
    "profiles": (_own_profiles, "builder.profiles.1.input_ids.max was [1, 128], is not there; "),
    "workspace": (
        lambda place: {"options": Options(workspace_bytes=2**28)},
        "builder.workspace_bytes was none, is 268435456",
    ),
    "optimization level": (
        lambda place: {"options": Options(optimization_level=2)},
        "builder.optimization_level was none, is 2",
    ),
    "flag": (
        lambda place: {"options": Options(flags=("WEIGHT_STREAMING",))},
        'builder.flags was [], is ["WEIGHT_STREAMING"]',
    ),
    "compute capability": (
        lambda place: {"wish": Wish("tensorrt_rtx", "8.6")},
        'target.compute_capability was "8.0", is "8.6"',
    ),
    "flavour": (lambda place: {"wish": CPU}, "cuda_major was 13, is none; "),
}


def rebuilt_once(place: Place, **changes: Any) -> Outcome:
    """The outcome of a build that had to be; another one after it had nothing to do."""
    outcome = place.build(**changes)
    assert outcome.changed
    again = place.build(**changes)
    assert (again.changed, again.rebuild_reason) == (False, "")
    assert again.key == outcome.key == digest(place.dest / "key.json")
    assert hidden(place) == KEPT
    return outcome


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_key_is_one_rebuild_with_its_reason(place: Place, name: str) -> None:
    before = read_fields(place.dest / "key.json")
    change, reason = CHANGES[name]
    outcome = rebuilt_once(place, **change(place))
    expected = reason.format(
        graph=before["graph"]["decoder.onnx"],
        weights=before["graph"]["decoder.onnx.data"],
        numpy=before["preparation"]["tools"]["numpy"],
    )
    said = outcome.rebuild_reason
    assert said == expected if not expected.endswith(("; ", '"')) else said.startswith(expected)
    assert outcome.before == before
    if name == "slots":
        # input_ids, position_ids, write_indices, valid_lengths and the caches: max and opt each
        assert said.endswith(f"; and {2 * TENSORS - 6} more fields")
    elif name == "flavour":
        assert 'tensorrt.flavour was "tensorrt_rtx", is "onnxruntime"' in said
    elif name != "profiles":
        assert len(said.split("; ")) == len(expected.split("; "))


def test_another_calibration_is_one_rebuild(prepared: dict[str, Path], tmp_path: Path) -> None:
    place = Place.make(tmp_path, prepared["int8"], CPU)
    old = json.loads(place.record.read_text())["preparation"]["calibration"]["sha256"]
    new = hashlib.sha256(b"another text").hexdigest()
    edit(place.record, lambda record: record["preparation"]["calibration"].update(sha256=new))
    assert rebuilt_once(place).rebuild_reason == f'calibration was "{old}", is "{new}"'


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tensorrt.version", "1.6.0.1", 'tensorrt.version was "1.6.0.1", is "1.7.1.116"'),
        ("cuda_major", 12, "cuda_major was 12, is 13"),
        ("platform", "linux-riscv64", 'platform was "linux-riscv64", is "{platform}"'),
        ("target.product", "NVIDIA L4", 'target.product was "NVIDIA L4", is none'),
        ("builder.hardware_compatible", True, "builder.hardware_compatible was true, is false"),
        ("builder.strongly_typed", False, "builder.strongly_typed was false, is true"),
        ("schema", 0, "schema was 0, is 1"),
    ],
)
def test_an_engine_of_another_compiler_or_place_is_rebuilt(
    place: Place, field: str, value: object, reason: str
) -> None:
    def other(fields: dict[str, Any]) -> None:
        *path, name = field.split(".")
        for part in path:
            fields = fields[part]
        fields[name] = value

    edit(place.dest / "key.json", other)
    said = rebuilt_once(place).rebuild_reason
    platform = read_fields(place.dest / "key.json")["platform"]
    assert said == reason.format(platform=platform)


def test_a_field_that_is_not_there_is_a_difference(cpu_place: Place) -> None:
    """Even one that is null today: its key was another."""
    edit(cpu_place.dest / "key.json", lambda fields: fields.pop("cuda_major"))
    assert rebuilt_once(cpu_place).rebuild_reason == "cuda_major was not there, is none"


@given(st.dictionaries(st.text(max_size=4), json_values), st.randoms(use_true_random=False))
def test_the_key_depends_on_the_fields_alone(fields: dict[str, Any], random: Any) -> None:
    names = list(fields)
    random.shuffle(names)
    keys = [
        Key({}, None, None, part, Tensorrt("tensorrt", "11.0"), 13, "linux", Target("9.0", "H100"))
        for part in (fields, {name: fields[name] for name in names})
    ]
    assert keys[0].digest == keys[1].digest == hashlib.sha256(keys[0].to_bytes()).hexdigest()
    assert differences(fields, {name: fields[name] for name in names}) == []


@given(json_values, json_values)
def test_whatever_differs_is_named(before: Any, after: Any) -> None:
    found = differences({"field": before}, {"field": after})
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (found == []) == same
    assert all(line.startswith("field") for line in found)


def test_many_differences_are_counted() -> None:
    assert summary(["a", "b"]) == "a; b"
    assert summary([str(n) for n in range(9)]) == "0; 1; 2; 3; 4; 5; and 3 more fields"


# --- damage ---------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


ANOTHER = "is not what was built: its SHA-256 is another"


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("engine.onnx", _flip, f"engine.onnx {ANOTHER}"),
        ("engine.onnx.data", _cut, f"engine.onnx.data {ANOTHER}"),
        ("inspector.json", _flip, f"inspector.json {ANOTHER}"),
        ("build.log", Path.unlink, "No such file or directory: '{dest}/build.log'"),
        ("build.json", _cut, "{dest}/build.json is damaged: "),
        ("build.json", Path.unlink, "{dest}/build.json is damaged: "),
        ("key.json", _cut, "{dest}/key.json: cannot be read as a key: "),
        ("key.json", Path.unlink, "{dest}/key.json: cannot be read as a key: "),
    ],
)
def test_a_damaged_engine_is_rebuilt(
    cpu_place: Place, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    damage(cpu_place.dest / name)
    expected = reason.format(dest=cpu_place.dest)
    assert expected in builder.describe(cpu_place.dest)["problems"][0]
    assert expected in rebuilt_once(cpu_place).rebuild_reason


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip, f"engine.plan {ANOTHER}"),
        (_cut, f"engine.plan {ANOTHER}"),
        (Path.unlink, "{dest} is damaged: "),
    ],
)
def test_a_damaged_plan_is_rebuilt(
    place: Place, damage: Callable[[Path], None], reason: str
) -> None:
    damage(place.dest / "engine.plan")
    assert rebuilt_once(place).rebuild_reason.startswith(reason.format(dest=place.dest))


def test_white_space_in_the_key_file_is_damage(cpu_place: Place) -> None:
    with (cpu_place.dest / "key.json").open("a") as file:
        file.write(" ")
    assert rebuilt_once(cpu_place).rebuild_reason == f"key.json {ANOTHER}"


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["build.json", "key.json"]),
    st.binary(max_size=20) | json_values.map(lambda value: json.dumps(value).encode()),
)
def test_no_record_is_believed(built_for_cpu: Place, name: str, data: bytes) -> None:
    path = built_for_cpu.dest / name
    kept = path.read_bytes()
    try:
        path.write_bytes(data)
        outcome = built_for_cpu.build(check=True)
        assert outcome.changed
        assert outcome.rebuild_reason
        assert builder.describe(built_for_cpu.dest)["problems"] or name == "key.json"
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("files", [{}, {"key.json": {"sha256": "0"}}, [], {"engine.plan": 1}])
def test_a_record_must_name_the_engine(cpu_place: Place, files: Any) -> None:
    edit(cpu_place.dest / "build.json", lambda record: record.update(files=files))
    outcome = cpu_place.build(check=True)
    assert outcome.rebuild_reason.startswith(f"{cpu_place.dest}/build.json is damaged: ")


# --- when -----------------------------------------------------------------------------------------


def test_regenerate_never_builds_what_is_missing_and_nothing_else(cpu_place: Place) -> None:
    before = snapshot(cpu_place.dest)
    edit(cpu_place.record, lambda record: record["preparation"]["arguments"].update(window=9))
    outcome = cpu_place.build(regenerate="never")
    assert not outcome.changed
    assert outcome.rebuild_reason == "preparation.arguments.window was 512, is 9"
    assert snapshot(cpu_place.dest) == before
    shutil.rmtree(cpu_place.dest)
    assert cpu_place.build(regenerate="never").changed


def test_regenerate_fail_names_the_difference(cpu_place: Place) -> None:
    assert not cpu_place.build(regenerate="fail").changed
    before = snapshot(cpu_place.dest)
    _flip(cpu_place.dest / "engine.onnx")
    damaged = snapshot(cpu_place.dest)
    with pytest.raises(BuildError, match=r"regenerate is fail: engine\.onnx is not what was built"):
        cpu_place.build(regenerate="fail")
    assert snapshot(cpu_place.dest) == damaged != before
    assert cpu_place.build(regenerate="if_changed").changed
    assert not cpu_place.build(regenerate="fail").changed


def test_regenerate_always_builds_every_time(cpu_place: Place) -> None:
    for _time in range(2):
        outcome = cpu_place.build(regenerate="always")
        assert (outcome.changed, outcome.rebuild_reason) == (True, "regenerate is always")
    with pytest.raises(BuildError, match="'sometimes' is none of never, fail, if_changed, always"):
        cpu_place.build(regenerate="sometimes")


@pytest.mark.parametrize("regenerate", ["never", "if_changed", "always"])
@pytest.mark.parametrize("case", ["missing", "damaged", "changed", "unchanged", "no cache"])
def test_check_changes_nothing(cpu_place: Place, case: str, regenerate: str) -> None:
    place = cpu_place
    if case == "missing":
        shutil.rmtree(place.dest.parent)
    elif case == "damaged":
        _flip(place.dest / "engine.onnx")
    elif case == "changed":
        edit(place.record, lambda record: record["preparation"]["arguments"].update(window=9))
    elif case == "no cache":
        (place.dest.parent / ".hashes.json").unlink(missing_ok=True)
    before = snapshot(place.folder)
    outcome = place.build(check=True, force_hash=True, regenerate=regenerate)
    assert snapshot(place.folder) == before
    unchanged = case in ("unchanged", "no cache")
    changed = {"always": True, "if_changed": not unchanged, "never": case == "missing"}
    assert outcome.changed is changed[regenerate]
    assert bool(outcome.rebuild_reason) is (not unchanged or regenerate == "always")


# --- killed, and two at once ----------------------------------------------------------------------


def start(place: Place, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(place.graph, place.dest, A100, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_the_compiler(place: Place, process: subprocess.Popen[str]) -> None:
    log = place.dest.with_name(".engine.partial") / "build.log"

    def compiles() -> bool:
        assert process.poll() is None
        return log.exists() and log.stat().st_size > 0

    until(compiles)


def test_a_killed_build_leaves_the_old_engine_whole(place: Place) -> None:
    before = snapshot(place.dest)
    progress = place.folder / "progress.json"
    process = start(place, "--slots", "3", "--progress", str(progress))
    wait_for_the_compiler(place, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert place.dest.with_name(".engine.partial").exists()
    assert snapshot(place.dest) == before
    assert not place.build(check=True).changed
    assert rebuilt_once(place, slots=3, progress=progress).before == read_fields_of(before)
    assert not progress.exists()


def read_fields_of(files: dict[str, tuple[int, bytes]]) -> Any:
    return json.loads(files["key.json"][1])


@pytest.mark.parametrize("stage", ["old away", "new in place"])
def test_a_build_killed_while_it_takes_its_place(cpu_place: Place, stage: str) -> None:
    old, partial = (cpu_place.dest.with_name(f".engine.{name}") for name in ("replaced", "partial"))
    before = snapshot(cpu_place.dest)
    if stage == "old away":
        cpu_place.dest.rename(old)
        shutil.copytree(old, partial)
        outcome = cpu_place.build()
        assert (outcome.changed, outcome.rebuild_reason) == (False, "")
        assert snapshot(cpu_place.dest) == before
    else:
        shutil.copytree(cpu_place.dest, old)
        assert cpu_place.build(regenerate="always").changed
    assert hidden(cpu_place) == KEPT


def test_a_folder_of_a_similar_name_is_another_engine(cpu_place: Place) -> None:
    other = cpu_place.dest.with_name("engine.partial")
    cpu_place.build(dest=other)
    assert cpu_place.build(regenerate="always").changed
    assert not cpu_place.build(dest=other).changed


def test_two_builds_at_once_are_one(place: Place) -> None:
    shutil.rmtree(place.dest)
    with place.dest.with_name(".engine.lock").open("w") as lock:
        # until both have found nothing there, and wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start(place), start(place)]
        for process in processes:
            assert process.stderr is not None
            assert "waiting for the build that holds" in process.stderr.readline()
    outcomes = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(outcome["changed"] for outcome in outcomes) == [False, True]
    assert min(outcome["rebuild_reason"] for outcome in outcomes) == ""
    assert outcomes[0]["key"] == outcomes[1]["key"]
    assert outcomes[0]["build"] == outcomes[1]["build"]
    assert hidden(place) == KEPT


def test_progress_can_be_followed(place: Place) -> None:
    path = place.folder / "progress.json"
    process = start(place, "--regenerate", "always", "--progress", str(path))
    texts = set()
    while process.poll() is None:
        if path.exists():
            texts.add(read_if_there(path))
        time.sleep(0.01)
    process.communicate()
    assert "building for 8.0" in texts
    assert not path.exists()


def read_if_there(path: Path) -> str:
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        return ""
    assert set(state) == {"text", "fraction", "seconds"}
    assert 0 <= state["fraction"] <= 1
    return str(state["text"])


def test_progress_is_that_of_the_outermost_phase() -> None:
    progress = Progress()
    progress.start("all", 4)
    progress.step("all", 0)
    assert progress.fraction == 0.25
    progress.start("second", 2)
    progress.step("second", 0)
    assert progress.fraction == 0.375
    progress.step("unknown", 7)
    progress.finish("second")
    progress.step("all", 9)
    assert progress.fraction == 1
    progress.finish("all")
    assert progress.fraction == 0


# --- hashes ---------------------------------------------------------------------------------------


def settled(path: Path, data: bytes, age: float = 10) -> Path:
    """A file that was last written `age` seconds ago."""
    path.write_bytes(data)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def hashed(folder: Path, path: Path, *, force: bool = False) -> tuple[str, int]:
    """The hash, and the bytes that had to be read for it."""
    cache = HashCache(folder / "hashes.json", force=force)
    found = cache.sha256(path)
    cache.save()
    return found, cache.hashed_bytes


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert hashed(tmp_path, path) == (expected, 3)
    assert hashed(tmp_path, path) == (expected, 0)
    assert hashed(tmp_path, path, force=True) == (expected, 3)
    # of the same size, also when it was renamed into place
    settled(path, b"two", age=9)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"two").hexdigest(), 3)
    stamp = path.stat().st_mtime_ns
    other = settled(tmp_path / "other", b"six")
    os.utime(other, ns=(stamp, stamp))
    other.replace(path)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"six").hexdigest(), 3)
    assert hashed(tmp_path, path)[1] == 0


def test_force_sees_what_no_time_stamp_shows(tmp_path: Path) -> None:
    path = settled(tmp_path / "file", b"one")
    hashed(tmp_path, path)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert hashed(tmp_path, path) == (hashlib.sha256(b"one").hexdigest(), 0)
    assert hashed(tmp_path, path, force=True) == (hashlib.sha256(b"two").hexdigest(), 3)


def test_force_hash_finds_a_flipped_byte_in_an_old_engine(cpu_place: Place) -> None:
    path = cpu_place.dest / "engine.onnx"
    settled(path, path.read_bytes())
    stamp = path.stat().st_mtime_ns
    assert not cpu_place.build().changed
    _flip(path)
    os.utime(path, ns=(stamp, stamp))
    assert not cpu_place.build().changed
    assert cpu_place.build(force_hash=True).rebuild_reason == f"engine.onnx {ANOTHER}"


@pytest.mark.parametrize("age", [0, -3600])
def test_a_file_too_young_is_not_remembered(tmp_path: Path, age: float) -> None:
    path = settled(tmp_path / "file", b"one", age)
    assert hashed(tmp_path, path)[1] == 3
    assert hashed(tmp_path, path)[1] == 3
    assert not (tmp_path / "hashes.json").exists()


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    first, second = (settled(tmp_path / name, b"x") for name in ("first", "second"))
    hashed(tmp_path, first)
    first.unlink()
    hashed(tmp_path, second)
    assert list(json.loads((tmp_path / "hashes.json").read_text())) == [str(second.resolve())]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_damaged_cache_is_empty(tmp_path: Path, data: bytes) -> None:
    path = settled(tmp_path / "file", b"one")
    (tmp_path / "hashes.json").write_bytes(data)
    assert hashed(tmp_path, path) == (hashlib.sha256(b"one").hexdigest(), 3)
    assert hashed(tmp_path, path)[1] == 0


@given(entry=json_values)
def test_a_damaged_entry_is_none(tmp_path_factory: pytest.TempPathFactory, entry: Any) -> None:
    folder = tmp_path_factory.mktemp("hashes")
    path = settled(folder / "file", b"one")
    (folder / "hashes.json").write_text(json.dumps({str(path): entry}))
    assert hashed(folder, path)[0] == hashlib.sha256(b"one").hexdigest()


# --- what the command says ------------------------------------------------------------------------


def test_info_says_what_is_installed_and_what_is_there(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(place.dest)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["flavour"] for entry in found["compilers"]} >= {"tensorrt_rtx", "onnxruntime"}
    assert found["engine"]["key"] == digest(place.dest / "key.json")
    assert found["engine"]["problems"] == []
    assert found["engine"]["fields"]["target"]["compute_capability"] == "8.0"
    assert main(["info", str(place.dest / "nowhere")]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == {"found": False, "problems": []}
    assert main(["info", str(place.graph.parent)]) == 1
    assert "exists and is no engine" in capsys.readouterr().err
