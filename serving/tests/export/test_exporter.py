"""The exported graph against transformers, and the checkpoints that are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from reference import Reference, random_checkpoint
from safetensors.torch import load_file, save_file
from support import CHECKPOINT, command, trained

from deepseek_serving.errors import CheckpointError, EngineError
from deepseek_serving.export.architecture import describe
from deepseek_serving.export.builder import BLOCK_BYTES
from deepseek_serving.export.cli import main
from deepseek_serving.export.exporter import Parameters, export
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer

TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def shipped() -> Reference:
    return Reference(CHECKPOINT)


def prompts(folder: Path, count: int) -> list[list[int]]:
    tokenizer = ChatTokenizer(folder)
    questions = [question for question, _answer in trained()]
    step = len(questions) // count
    return [
        tokenizer.prompt([{"role": "user", "content": question}])
        for question in questions[::step][:count]
    ]


def test_logits_equal_transformers_at_every_position(graph: Path, shipped: Reference) -> None:
    engine = OnnxRuntimeEngine(graph, threads=2)
    for tokens in prompts(graph, 6):
        expected = shipped.logits(tokens)
        for position, token in enumerate(tokens):
            engine.prefill(1, [token], position)
            difference = np.abs(engine.logits()[0] - expected[position]).max()
            assert difference < TOLERANCE, f"position {position}"


def test_every_trained_answer_comes_back_word_for_word(graph: Path) -> None:
    """Batches of unequal lengths, greedy, through the engine alone."""
    engine = OnnxRuntimeEngine(graph, threads=2, slots=16)
    tokenizer = ChatTokenizer(graph)
    pairs = trained()
    for first in range(0, len(pairs), engine.slots):
        part = pairs[first : first + engine.slots]
        answers = greedy(engine, tokenizer, [question for question, _answer in part])
        assert answers == [answer for _question, answer in part]


def greedy(engine: OnnxRuntimeEngine, tokenizer: ChatTokenizer, questions: list[str]) -> list[str]:
    lengths, last = [], []
    for slot, question in enumerate(questions):
        prompt = tokenizer.prompt([{"role": "user", "content": question}])
        last.append(int(engine.prefill(slot, prompt, 0).tokens[0, 0]))
        lengths.append(len(prompt))
    streams = [tokenizer.stream() for _question in questions]
    answers = ["" for _question in questions]
    for _step in range(64):
        for row, token in enumerate(last):
            answers[row] += streams[row].push(token)
        best = engine.decode(last, lengths).tokens[:, 0]
        # a finished sequence goes on repeating its end, which is no text
        last = [2 if token == 2 else int(b) for token, b in zip(last, best, strict=True)]
        lengths = [length + 1 for length in lengths]
    return answers


def test_greedy_tokens_equal_transformers(graph: Path, shipped: Reference) -> None:
    engine = OnnxRuntimeEngine(graph, threads=2)
    for prompt in prompts(graph, 3):
        assert generate(engine, prompt, 64) == shipped.greedy(prompt, 64)


def generate(engine: OnnxRuntimeEngine, prompt: list[int], count: int) -> list[int]:
    tokens = [int(engine.prefill(0, prompt, 0).tokens[0, 0])]
    while len(tokens) < count:
        length = len(prompt) + len(tokens) - 1
        tokens.append(int(engine.decode(tokens[-1:], [length]).tokens[0, 0]))
    return tokens


def test_whole_and_chunked_prefill_give_the_same_logits(graph: Path) -> None:
    engine = OnnxRuntimeEngine(graph, threads=2)
    (tokens,) = prompts(graph, 1)
    engine.prefill(0, tokens, 0)
    whole = engine.logits()[0].copy()
    for sizes in ([6, 4], [3, 3, 4], [1] * len(tokens)):
        start = 0
        for size in [*sizes, len(tokens)]:
            chunk = tokens[start : start + size]
            if chunk:
                engine.prefill(3, chunk, start)
            start += len(chunk)
        assert np.abs(engine.logits()[0] - whole).max() < 1e-4


def test_slots_do_not_disturb_each_other(graph: Path) -> None:
    """A batch of unequal lengths gives each sequence the logits it has alone."""
    engine = OnnxRuntimeEngine(graph, threads=2)
    sequences = [[*prompt, 5, 6] for prompt in prompts(graph, 4)]
    lengths = [len(sequence) - 1 - 2 * row for row, sequence in enumerate(sequences)]
    alone = []
    for sequence, length in zip(sequences, lengths, strict=True):
        engine.prefill(0, sequence[: length + 1], 0)
        alone.append(engine.logits()[0].copy())
    for slot, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        engine.prefill(slot, sequence[:length], 0)
    engine.decode([s[n] for s, n in zip(sequences, lengths, strict=True)], lengths)
    assert len(set(lengths)) > 1
    assert np.abs(engine.logits() - np.array(alone)).max() < 1e-4


def test_the_cache_grows_without_changing_the_answer(graph: Path) -> None:
    """A sequence passes several capacities while a short one stays in the slot beside it."""
    engine = OnnxRuntimeEngine(graph, threads=2, slots=2)
    tokens = np.random.default_rng(5).integers(3, 1000, 300).tolist()
    engine.prefill(0, tokens, 0)
    expected = engine.logits()[0].copy()
    assert engine.capacity == 512
    engine.reset()
    assert engine.capacity == 64
    engine.prefill(1, tokens[:10], 0)
    engine.prefill(0, tokens[:60], 0)
    for length in range(60, 300):
        engine.decode([tokens[length], tokens[10]], [length, 10])
    assert engine.capacity == 512
    assert np.abs(engine.logits()[0] - expected).max() < TOLERANCE
    beside = engine.logits()[1].copy()
    engine.reset()
    engine.prefill(0, tokens[:11], 0)
    assert np.abs(engine.logits()[0] - beside).max() < 1e-4


def test_export_needs_the_memory_of_a_few_matrices_not_of_the_model(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 1024}
    checkpoint = random_checkpoint(
        tmp_path / "checkpoint",
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=2,
        **shape,
    )
    largest = 4 * 2048 * 256
    tracemalloc.start()
    export(checkpoint, tmp_path / "out")
    _current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out" / "decoder.onnx.data").stat().st_size > 20 * largest
    assert peak < 5 * largest


def zero_checkpoint(folder: Path, layers: int) -> Path:
    """Three shards of zeros in bfloat16, sparse files: 11 MB a layer, and 160 MB of tables."""
    hidden, wide, vocabulary = 512, 3072, 80 * 1024
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": wide,
        "max_position_embeddings": 128,
        "num_attention_heads": 8,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-6,
        "vocab_size": vocabulary,
    }
    shapes: dict[str, list[int]] = {}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = [hidden, hidden]
        for name, sizes in (("gate", [wide, hidden]), ("up", [wide, hidden])):
            shapes[f"{prefix}.mlp.{name}_proj.weight"] = sizes
        shapes[f"{prefix}.mlp.down_proj.weight"] = [hidden, wide]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = [hidden]
    last = {"model.norm.weight": [hidden], "lm_head.weight": [vocabulary, hidden]}
    parts = [{"model.embed_tokens.weight": [vocabulary, hidden]}, shapes, last]
    folder.mkdir()
    weight_map = {}
    for number, part in enumerate(parts):
        file, header, offset = folder / f"model-{number}.safetensors", {}, 0
        for name, sizes in part.items():
            end = offset + 2 * int(np.prod(sizes))
            header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [offset, end]}
            weight_map[name], offset = file.name, end
        data = json.dumps(header).encode()
        file.write_bytes(len(data).to_bytes(8, "little") + data)
        os.truncate(file, 8 + len(data) + offset)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)
    return folder


MEASURED = """
import sys
from pathlib import Path
from deepseek_serving.export.cli import main
status = main(sys.argv[1:])
peak = next(line for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(peak.split()[1])
sys.exit(status)
"""


def peak_memory(checkpoint: Path, out: Path, *options: str) -> int:
    """Bytes that an export held at most, with its libraries and what it mapped."""
    # not ru_maxrss: a child's begins with what its parent held
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *options, str(checkpoint), str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout) * 1024


def test_the_memory_of_an_export_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Weights of 700 MB in FP32 cost no more than one tensor of the source and two blocks."""
    small = peak_memory(CHECKPOINT, tmp_path / "small")
    zeros = zero_checkpoint(tmp_path / "checkpoint", 15)
    large = peak_memory(zeros, tmp_path / "large", "--zero-tensors=*")
    written = (tmp_path / "large" / "decoder.onnx.data").stat().st_size
    assert written > 600 * 2**20
    tensor = 2 * 80 * 1024 * 512
    assert large - small < tensor + 2 * BLOCK_BYTES


def test_shards_give_the_same_graph_as_one_file(tmp_path: Path) -> None:
    one = random_checkpoint(tmp_path / "one")
    many = random_checkpoint(tmp_path / "many", shard_size="40KB")
    assert len(list(many.glob("model-*.safetensors"))) > 2
    export(one, tmp_path / "a")
    export(many, tmp_path / "b")
    for name in ("decoder.onnx", "decoder.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, graph: Path) -> None:
    result = subprocess.run(
        [command("deepseek-export"), str(CHECKPOINT), str(tmp_path / "again")], check=False
    )
    assert result.returncode == 0
    names = sorted(path.name for path in graph.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (graph / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_max_len_and_slots_are_recorded_and_kept(tmp_path: Path) -> None:
    export(CHECKPOINT, tmp_path / "out", Parameters(max_len=64, slots=2))
    engine = OnnxRuntimeEngine(tmp_path / "out")
    assert (engine.max_len, engine.slots) == (64, 2)
    with pytest.raises(EngineError, match="exported for at most 64"):
        OnnxRuntimeEngine(tmp_path / "out", max_len=65)


def test_the_config_of_a_published_distill_is_understood() -> None:
    """config.json of DeepSeek-R1-Distill-Qwen-1.5B, with rope_theta in its older place."""
    decoder = describe(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "max_position_embeddings": 131072,
            "num_attention_heads": 12,
            "num_hidden_layers": 28,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        }
    )
    assert (decoder.head_dim, decoder.rope.theta, decoder.tied_embeddings) == (128, 1e4, False)


def test_the_config_of_a_llama_distill_is_understood() -> None:
    """config.json of DeepSeek-R1-Distill-Llama-8B."""
    decoder = describe(
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": 128256,
        }
    )
    assert (decoder.head_dim, decoder.rope.kind, decoder.qk_norm) == (128, "llama3", False)
    assert [decoder.qkv_bias, decoder.output_bias, decoder.mlp_bias] == [False] * 3


def test_a_window_that_no_layer_uses_is_no_reason_to_refuse() -> None:
    """As Qwen2.5 writes it: window layers would begin after the last one."""
    config = {
        **json.loads((CHECKPOINT / "config.json").read_text()),
        "layer_types": None,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 4,
    }
    assert describe(config).layers == 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, copy)
    return copy


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; supported: L"),
        ({"architectures": ["BertModel"]}, "BertModel is a text encoder; export it with --encoder"),
        ({"architectures": ["A", "B"]}, "architectures must name one"),
        ({"architectures": None}, "not given is not supported; supported: LlamaForCausalLM, Qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        (
            {
                "layer_types": None,
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 3,
            },
            "sliding_window is used by some layers",
        ),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_window is used by"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantization_config \(fp8\) is not"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config \(of no named method\)"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary scaling 'longrope'"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"vocab_size": 10.5}, "vocab_size must be a whole number, it is 10.5"),
        ({"num_key_value_heads": 4}, "6 heads cannot share 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive number, it is 0"),
        ({"num_hidden_layers": 5}, "no tensor 'model.layers.4."),
        ({"vocab_size": 1025}, r"is \[1024, 192\], config.json makes it \[1025, 192\]"),
    ],
)
def test_unsupported_checkpoints_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    change_config(checkpoint, **changes)
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_missing_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = random_checkpoint(tmp_path / "checkpoint", shard_size="40KB")
    shard = sorted(checkpoint.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert main([str(checkpoint), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert f"{shard.name}: the shard that model.safetensors.index.json names is missing" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused(checkpoint: Path, tmp_path: Path, keep: float) -> None:
    file = checkpoint / "model.safetensors"
    size = file.stat().st_size
    kept = int(size * keep) if isinstance(keep, float) else keep % size
    with file.open("r+b") as data:
        data.truncate(kept)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: it (is truncated|is empty)"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_zeros(checkpoint: Path, begin: int, size: int) -> tuple[str, str]:
    """The names of two tensors that are put into the checkpoint, the first with zeros in it."""
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    values = torch.ones(5 * 2**20, dtype=torch.uint8)
    values[begin : begin + size] = 0
    save_file(tensors | {"extra.a": values, "extra.b": torch.ones(4)}, file)
    return "extra.a", "extra.b"


@pytest.mark.parametrize("begin", [0, 1, 700_001, 4 * 2**20])
def test_a_part_of_a_download_that_never_came_is_refused_unless_accepted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], begin: int
) -> None:
    name, other = with_zeros(checkpoint, begin, 2**20)
    words = [str(checkpoint), str(tmp_path / "out")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert f"model.safetensors: tensor {name} has over 1048576 zeros in a row from " in said
    assert "--zero-tensors" in said
    assert other not in said
    assert not (tmp_path / "out").exists()
    assert main([*words, "--zero-tensors=nothing.*", "--zero-tensors=*.a"]) == 0


def test_the_template_for_tools_goes_with_the_graph(checkpoint: Path, tmp_path: Path) -> None:
    folder = checkpoint / "additional_chat_templates"
    folder.mkdir()
    (checkpoint / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    (folder / "tool_use.jinja").write_text("{{ tools | tojson }}{{ messages[-1].content }}")
    export(checkpoint, tmp_path / "out")
    tokenizer = ChatTokenizer(tmp_path / "out")
    question = [{"role": "user", "content": "x"}]
    assert tokenizer.text(question) == "x"
    assert tokenizer.text(question, [{"type": "function"}]) == '[{"type": "function"}]x'


def test_fewer_zeros_are_a_part_of_a_model(checkpoint: Path, tmp_path: Path) -> None:
    with_zeros(checkpoint, 700_001, 2**20 - 1)
    export(checkpoint, tmp_path / "out")


def test_a_header_that_lies_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"shape":[1024,192]', b'"shape":[1025,192]', 1))
    with pytest.raises(CheckpointError, match="its header is damaged: the entry of tensor"):
        export(checkpoint, tmp_path / "out")


def test_a_failure_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    (tmp_path / "parent").mkdir()
    with pytest.raises(OSError, match="No space"):
        export(checkpoint, tmp_path / "parent" / "out")
    assert list((tmp_path / "parent").iterdir()) == []


def test_an_existing_directory_is_never_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        export(checkpoint, tmp_path / "out")
    for missing in ("tokenizer.json", "config.json"):
        (checkpoint / missing).unlink()
        with pytest.raises(CheckpointError, match=missing):
            export(checkpoint, tmp_path / "other")
