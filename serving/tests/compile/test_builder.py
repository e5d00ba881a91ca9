"""When an engine is built again: another key, damage, a wish, an interruption."""

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

import pytest
from engines import A100, CPU, Place, arguments, digest, edit, hidden, settled, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import json_values
from key_changes import CHANGES
from safetensors.torch import load_file, save_file
from support import CHECKPOINT, Texts
from waiting import PATIENCE, until

from deepseek_serving.compile import builder
from deepseek_serving.compile.builder import Outcome
from deepseek_serving.compile.cli import main
from deepseek_serving.compile.key import read_fields
from deepseek_serving.compile.progress import Progress
from deepseek_serving.errors import BuildError
from deepseek_serving.export.exporter import export
from deepseek_serving.prepare.preparer import Options as Precision
from deepseek_serving.prepare.preparer import prepare

KEPT = {".engine.lock", ".hashes.json"}
# of the graph with one layer
TENSORS = 4 + 2


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


def test_a_directory_of_a_similar_name_is_another_engine(cpu_place: Place) -> None:
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


def test_force_hash_finds_a_flipped_byte_in_an_old_engine(cpu_place: Place) -> None:
    path = cpu_place.dest / "engine.onnx"
    settled(path, path.read_bytes())
    stamp = path.stat().st_mtime_ns
    assert not cpu_place.build().changed
    _flip(path)
    os.utime(path, ns=(stamp, stamp))
    assert not cpu_place.build().changed
    assert cpu_place.build(force_hash=True).rebuild_reason == f"engine.onnx {ANOTHER}"


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
