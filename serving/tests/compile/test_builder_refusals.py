"""What deepseek-engine refuses, how it says so, and which GPU and compiler it takes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from engines import A100, CPU, H100, NO_GPU, Place, edit, hidden, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deepseek_serving.compile import target
from deepseek_serving.compile.builder import Request, build
from deepseek_serving.compile.cli import main
from deepseek_serving.compile.compiler import Options
from deepseek_serving.compile.host import Gpu, Gpus, find_package
from deepseek_serving.compile.key import Target
from deepseek_serving.compile.profiles import default_profiles, read_profiles
from deepseek_serving.compile.source import read_source
from deepseek_serving.compile.target import Choice, Wish, choose
from deepseek_serving.errors import BuildError

L4 = Gpu("NVIDIA L4", "GPU-4", "8.9")
A10 = Gpu("NVIDIA A10", "GPU-10", "8.6")


def install(folder: Path, name: str, version: str) -> None:
    """As pip leaves it, as far as a package's metadata goes."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def refused(folder: Path, request: Request, gpus: Gpus = NO_GPU) -> str:
    """The message; nothing in the directory is another than before."""
    before = snapshot(folder)
    with pytest.raises(BuildError) as caught:
        build(request, lambda: gpus)
    assert snapshot(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def fp16(prepared: dict[str, Path], tmp_path: Path) -> Place:
    """A graph to spoil, and no engine yet."""
    shutil.copytree(prepared["fp16"], tmp_path / "graph")
    return Place(tmp_path, A100)


def request(place: Place, **changes: Any) -> Request:
    return Request(place.graph, place.dest, **{"wish": place.wish, **changes})


# --- the graph ------------------------------------------------------------------------------------


def test_an_fp32_decoder(graph: Path, tmp_path: Path) -> None:
    for wish in (A100, CPU):
        said = refused(tmp_path, Request(graph / "decoder.onnx", tmp_path / "engine", wish))
        assert f"{graph}/decoder.onnx: the decoder is fp32 as exported" in said
        assert "Run deepseek-prepare first" in said


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("record", [None, {}, {"documents": 3}])
def test_activations_without_a_calibration_text(
    prepared: dict[str, Path], tmp_path: Path, precision: str, record: Any
) -> None:
    shutil.copytree(prepared[precision], tmp_path / "graph")
    place = Place(tmp_path, Wish("tensorrt_rtx", "8.9"))
    edit(place.record, lambda value: value["preparation"].update(calibration=record))
    said = refused(tmp_path, request(place))
    assert f"{precision} quantises activations, but export.json names no calibration text" in said


def _missing(data: Path) -> str:
    data.unlink()
    return f"{data}: missing; decoder.onnx keeps its weights there (initializer '"


def _truncated(data: Path) -> str:
    size = data.stat().st_size - 4096
    os.truncate(data, size)
    return f"{data}: truncated: initializer '"


def _outside(data: Path) -> str:
    graph = data.with_name("decoder.onnx")
    model = onnx.load(graph, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    (entry,) = (entry for entry in tensor.external_data if entry.key == "location")
    entry.value = "../elsewhere"
    graph.write_bytes(model.SerializeToString())
    return f"initializer {tensor.name!r} lies outside the directory: '../elsewhere'"


def _empty(data: Path) -> str:
    data.with_name("decoder.onnx").write_bytes(b"")
    return f"{data.with_name('decoder.onnx')}: not an ONNX file: it has no nodes"


def _garbage(data: Path) -> str:
    data.with_name("decoder.onnx").write_bytes(b"\xff" * 100)
    return f"{data.with_name('decoder.onnx')}: not an ONNX file: "


def _absent(data: Path) -> str:
    data.with_name("decoder.onnx").unlink()
    return f"{data.with_name('decoder.onnx')}: no such file"


def _no_record(data: Path) -> str:
    data.with_name("export.json").unlink()
    return f"{data.with_name('export.json')}: not what deepseek-export writes: FileNotFoundError"


def _half_a_record(data: Path) -> str:
    edit(data.with_name("export.json"), lambda record: record["preparation"].pop("tools"))
    return f"{data.with_name('export.json')}: not what deepseek-export writes: KeyError('tools')"


@pytest.mark.parametrize(
    "spoil",
    [_missing, _truncated, _outside, _empty, _garbage, _absent, _no_record, _half_a_record],
)
def test_a_graph_that_is_not_whole(fp16: Place, spoil: Callable[[Path], str]) -> None:
    expected = spoil(fp16.graph.with_name("decoder.onnx.data"))
    assert expected in refused(fp16.folder, request(fp16))


def test_another_name_than_the_exporter_gives(fp16: Place) -> None:
    graph = fp16.graph.rename(fp16.graph.with_name("model.onnx"))
    said = refused(fp16.folder, Request(graph, fp16.dest, A100))
    assert f"{graph}: must be named decoder.onnx or encoder.onnx" in said


def test_an_operator_that_the_parser_does_not_know(tmp_path: Path) -> None:
    graph = tmp_path / "graph" / "encoder.onnx"
    graph.parent.mkdir()
    shape = ["batch", "tokens"]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["x"], name="start", to=TensorProto.FLOAT),
        helper.make_node("Mystery", ["x"], ["y"], name="layers.3/mystery", domain="com.example"),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    body = helper.make_graph(nodes, "encoder", inputs, outputs)
    onnx.save(helper.make_model(body, opset_imports=opsets), graph)
    record = {"precision": "fp32", "parameters": {"max_len": 64}}
    (graph.parent / "export.json").write_text(json.dumps(record))
    place = Place(tmp_path, A100)
    with pytest.raises(BuildError) as caught:
        build(Request(graph, place.dest, A100), lambda: NO_GPU)
    said = str(caught.value)
    assert f"{graph}: TensorRT's parser refuses it: " in said
    assert "node 'layers.3/mystery', operator Mystery: " in said
    assert not place.dest.exists()
    assert hidden(place) <= {".engine.lock", ".hashes.json"}


def test_bf16_on_the_cpu(prepared: dict[str, Path], tmp_path: Path) -> None:
    place = Place(tmp_path, CPU)
    with pytest.raises(BuildError, match=r"for this bf16 graph: .* cache of bfloat16"):
        build(Request(prepared["bf16"] / "decoder.onnx", place.dest, CPU), lambda: NO_GPU)
    assert not place.dest.exists()
    assert hidden(place) <= {".engine.lock", ".hashes.json"}


# --- profiles -------------------------------------------------------------------------------------


def test_profiles_that_the_graph_cannot_take(fp16: Place) -> None:
    """All that is wrong, at once."""
    path = fp16.folder / "profiles.json"
    good = default_profiles(read_source(fp16.graph), None, 128)[0]
    profile = {name: shape.record() for name, shape in good.items()}
    fixed = {name: shape for name, shape in profile.items() if name.startswith("past_value")}
    profiles = [
        {
            **profile,
            "input_ids": {"min": [2, 1], "opt": [1, 1], "max": [4, 1]},
            "position_ids": {"min": [1], "opt": [1], "max": [1]},
            "past_key.0": {
                "min": [1, 2, 512, 32],
                "opt": [1, 2, 512, 32],
                "max": [1, 3, 512, 32],
            },
            "write_indices": {"min": [1], "max": [1]},
            "labels": {"min": [1], "opt": [1], "max": [1]},
        },
        fixed,
        "fp16",
    ]
    path.write_text(json.dumps(profiles))
    said = refused(fp16.folder, request(fp16, profiles=path))
    for expected in (
        f"{path}: the graph cannot take these profiles: ",
        "profile 0 names 'labels', which is no input (inputs: input_ids, ",
        "profile 0: input_ids min [2, 1] opt [1, 1] max [4, 1]: min <= opt <= max does not hold",
        "profile 0: position_ids min [1] opt [1] max [1]: each must be 2 positive numbers, for ?x?",
        "profile 0: past_key.0 min [1, 2, 512, 32] opt [1, 2, 512, 32] max [1, 3, 512, 32]: "
        "the graph's shape is ?x2x512x32, only ? may vary",
        "profile 0: write_indices needs exactly min, opt and max",
        "profile 1: input_ids (?x?) is missing",
        "profile 1: past_key.3 (?x2x512x32) is missing",
        "profile 2 is not an object",
    ):
        assert expected in said
    # five in the first, eight tensors that the second lacks, and the third
    assert len(said.split("; ")) == 5 + 8 + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read as profiles: [Errno 2]"),
        ("[", "cannot be read as profiles: "),
        ("{}", "must be a list of at least one profile"),
        ("[]", "must be a list of at least one profile"),
    ],
)
def test_files_that_hold_no_profiles(fp16: Place, text: str | None, expected: str) -> None:
    path = fp16.folder / "profiles.json"
    if text is not None:
        path.write_text(text)
    assert f"{path}: {expected}" in refused(fp16.folder, request(fp16, profiles=path))


shapes = st.lists(st.integers(-1, 5) | st.booleans() | st.none() | st.text(max_size=1), max_size=5)
ranges = st.fixed_dictionaries({}, optional=dict.fromkeys(("min", "opt", "max", "x"), shapes))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["input_ids", "past_key.0", "x"]), ranges | shapes))
def test_no_profile_passes_unchecked(
    prepared: dict[str, Path], tmp_path: Path, profile: dict[str, Any]
) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(json.dumps([profile]))
    with pytest.raises(BuildError, match=r"profile 0: write_indices \(\?\) is missing"):
        read_profiles(path, read_source(prepared["fp16"] / "decoder.onnx"))


@pytest.mark.parametrize("sizes", [{"slots": 0}, {"prefill_chunk": 0}, {"prefill_chunk": 513}])
def test_slots_and_chunks_that_cannot_be(fp16: Place, sizes: dict[str, int]) -> None:
    said = refused(fp16.folder, request(fp16, **sizes))
    slots, chunk = sizes.get("slots", 4), sizes.get("prefill_chunk", 128)
    assert f"slots {slots} must be at least 1, and prefill chunk {chunk} between 1" in said
    assert said.endswith("the graph's max_len, 512")


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "options", "expected"),
    [
        (A100, Options(flags=("FP16", "INT8")), "flag FP16, INT8: tensorrt_rtx 1.7.1.116 takes"),
        (A100, Options(optimization_level=6), "optimization level 6 is not within 0 and 5"),
        (A100, Options(optimization_level=-1), "optimization level -1 is not within 0 and 5"),
        (A100, Options(workspace_bytes=0), "workspace of 0 bytes must be more than none"),
        (A100, Options(hardware_compatible=True), "serves every GPU of its compute capability"),
        (CPU, Options(optimization_level=1), "flavour onnxruntime takes no builder options"),
        (Wish("onnxruntime", "8.0"), Options(), "flavour onnxruntime compiles for the CPU"),
        (Wish("tensorrt_rtx", "80"), Options(), "compute capability '80' must look like 8.0"),
        (Wish("tensorrt_rtx", "9.0"), Options(), "TensorRT-RTX has no runtime for compute"),
        (Wish("tensorrt_rtx", "7.5"), Options(), "TensorRT-RTX has no runtime for compute"),
        (Wish("tensorrt_rtx", "7.0"), Options(), "fp16 needs compute capability 7.5 or more"),
    ],
)
def test_options(fp16: Place, wish: Wish, options: Options, expected: str) -> None:
    assert expected in refused(fp16.folder, request(fp16, wish=wish, options=options))


def test_a_flag_that_does_not_exist(fp16: Place) -> None:
    with pytest.raises(BuildError) as caught:
        fp16.build(options=Options(flags=("SPEED",)))
    assert "tensorrt_rtx 1.7.1.116 has no BuilderFlag.SPEED (it has DEBUG, " in str(caught.value)
    assert not fp16.dest.exists()
    assert hidden(fp16) <= {".engine.lock", ".hashes.json"}


def test_what_the_compiler_says_is_passed_on(
    prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it not refused before: the same answer, from the compiler itself."""
    place = Place(tmp_path, A100)
    fp8 = Request(prepared["fp8"] / "decoder.onnx", place.dest, A100)
    said = refused(tmp_path, fp8)
    assert said == (
        f"{fp8.graph}: fp8 needs compute capability 8.9 or more, and the engine is for 8.0; "
        "prepare the model in another precision"
    )
    monkeypatch.setattr(target, "LEAST_CAPABILITY", {})
    with pytest.raises(BuildError, match=r"cannot build an engine for compute .* 8\.0: .*fp8_e4m3"):
        build(fp8, lambda: NO_GPU)
    assert not place.dest.exists()
    assert hidden(place) <= {".engine.lock", ".hashes.json"}


# --- the place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("regenerate", ["never", "if_changed", "always"])
def test_a_directory_of_something_else(fp16: Place, regenerate: str) -> None:
    fp16.dest.mkdir(parents=True)
    (fp16.dest / "thesis.odt").write_text("the only copy")
    said = refused(fp16.folder, request(fp16, regenerate=regenerate))
    assert f"{fp16.dest}: exists and is no engine (it has neither key.json nor build.json)" in said


def test_a_file_in_its_place(fp16: Place) -> None:
    fp16.dest.parent.mkdir()
    fp16.dest.write_text("file")
    assert "exists and is no engine" in refused(fp16.folder, request(fp16))
    below = fp16.dest / "engine"
    assert f"{below}: cannot be built: " in refused(fp16.folder, Request(fp16.graph, below, A100))


def test_an_empty_directory_is_taken(fp16: Place) -> None:
    fp16.dest.mkdir(parents=True)
    assert fp16.build(wish=CPU).changed


@pytest.mark.parametrize("free", [0, 10**7, 75 * 10**6])
def test_a_disk_that_is_full(fp16: Place, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the build by the size of the graph, after it by that of the plan."""
    usage = shutil.disk_usage(fp16.folder)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BuildError) as caught:
        fp16.build()
    said = str(caught.value)
    needed = int(said.split("the engine needs about ")[1].split(",")[0])
    graph = sum(path.stat().st_size for path in fp16.graph.parent.glob("decoder.onnx*"))
    assert needed > graph if free > 7 * 10**7 else needed == graph
    assert f" has {free} bytes free; " in said
    assert said.startswith(f"{fp16.dest.parent}")
    assert "Make room, or name another destination" in said
    assert not fp16.dest.exists()
    assert hidden(fp16) <= {".engine.lock", ".hashes.json"}


def chosen(fp16: Place, wish: Wish, *gpus: Gpu) -> Choice:
    return choose(wish, read_source(fp16.graph), lambda: Gpus(gpus, "580.159.04"))


@pytest.mark.parametrize("flavour", ["auto", "tensorrt", "tensorrt_rtx"])
def test_no_gpu_where_its_own_is_asked_for(fp16: Place, flavour: str) -> None:
    said = refused(fp16.folder, request(fp16, wish=Wish(flavour)))
    assert f"flavour {flavour} for this host's own GPU was asked for, but there is none" in said
    assert "(NVML: no driver)" in said
    assert "name flavour tensorrt_rtx and a compute capability" in said
    auto = request(fp16, wish=Wish("auto", "8.0"))
    assert "NVML counts 0 GPUs" in refused(fp16.folder, auto, Gpus((), "580.159.04"))


def test_auto_takes_tensorrt_where_it_is_installed(
    fp16: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=r"capability 9\.0, and none of tensorrt is installed"):
        chosen(fp16, Wish(), H100)
    # without it, TensorRT-RTX on the GPUs that it has a runtime for
    assert chosen(fp16, Wish(), L4).target == Target("8.9", None)
    assert chosen(fp16, Wish(), L4).package.flavour == "tensorrt_rtx"
    install(tmp_path, "tensorrt-cu13-bindings", "10.15.1.29")
    monkeypatch.syspath_prepend(str(tmp_path))
    for gpu in (H100, L4):
        choice = chosen(fp16, Wish(), gpu)
        assert (choice.package.flavour, choice.package.version) == ("tensorrt", "10.15.1.29")
        assert choice.package.cuda_major == 13
        assert choice.target == Target(gpu.compute_capability, gpu.product)
        assert choice.driver == "580.159.04"
        assert choice.strongly_typed
    compatible = chosen(fp16, Wish(hardware_compatible=True), H100)
    assert compatible.target == Target("9.0", None)


def test_tensorrt_rtx_on_an_h100(fp16: Place) -> None:
    for wish in (Wish("tensorrt_rtx"), Wish("tensorrt_rtx", "9.0")):
        with pytest.raises(BuildError) as caught:
            chosen(fp16, wish, H100)
        assert "TensorRT-RTX has no runtime for compute capability 9.0 (it has 8.0, 8.6, " in str(
            caught.value
        )
        assert "use flavour tensorrt on that GPU" in str(caught.value)


def test_different_gpus_in_one_host(
    fp16: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=r"different GPUs \(NVIDIA A10, NVIDIA L4\); name the"):
        chosen(fp16, Wish(), A10, L4)
    assert chosen(fp16, Wish("tensorrt_rtx", "8.9"), A10, L4).target == Target("8.9", None)
    assert chosen(fp16, Wish(), L4, L4).target == Target("8.9", None)
    install(tmp_path, "tensorrt", "11.1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    # the key would name the one, and the kernels be measured on the other
    with pytest.raises(BuildError, match="measures its kernels on one GPU, and this host has diff"):
        chosen(fp16, Wish("tensorrt", "8.9"), A10, L4)
    compatible = Wish("tensorrt", "8.9", hardware_compatible=True)
    assert chosen(fp16, compatible, A10, L4).target == Target("8.9", None)


def test_a_compiler_that_is_not_installed(
    fp16: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(fp16.folder, request(fp16, wish=Wish("tensorrt")), Gpus([H100], None))
    assert "no package of flavour tensorrt is installed in this environment (looked for " in said
    assert "tensorrt-cu13-bindings, tensorrt-cu13, " in said
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setattr("sys.path", [str(packages)])
    assert find_package("onnxruntime") is None
    install(packages, "tensorrt-rtx-cu12", "1.4.0.76")
    package = find_package("tensorrt_rtx")
    assert package is not None
    assert (package.version, package.cuda_major) == ("1.4.0.76", 12)


def test_tensorrt_for_a_gpu_elsewhere_or_of_an_old_version(
    fp16: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "tensorrt", "8.6.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BuildError) as caught:
        chosen(fp16, Wish("tensorrt", "8.0"), H100)
    assert "compiles on the GPU itself: 8.0 was asked for, and this host has 9.0" in str(
        caught.value
    )
    with pytest.raises(BuildError, match=r"8\.0 was asked for, and this host has no GPU"):
        chosen(fp16, Wish("tensorrt", "8.0"))
    with pytest.raises(
        BuildError, match=r"8\.6\.1 lacks the operators of a decoder; install 10\.1"
    ):
        chosen(fp16, Wish("tensorrt"), H100)


def test_a_refusal_is_one_line_and_exit_status_1(
    fp16: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["build", str(fp16.graph), str(fp16.dest), "--flavour", "tensorrt_rtx"]
    assert main([*line, "--compute-capability", "9.0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("deepseek-engine: TensorRT-RTX has no runtime for")
    assert captured.err.count("\n") == 1
