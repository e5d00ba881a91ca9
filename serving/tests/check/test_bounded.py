"""deepseek-check: what the service could not read is refused where it is published."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import CHECKPOINT, LFS_POINTER
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.qwen2 import tokenization_qwen2
from waiting import PATIENCE

from deepseek_serving.check.bounded import check, main
from deepseek_serving.check.trial_load import judge
from deepseek_serving.errors import CheckpointError, TokenizerError
from deepseek_serving.export.exporter import export
from deepseek_serving.text import tokenizer_classes
from deepseek_serving.text.documents import load_tokenizer, third_party


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, copy)
    return copy


def change(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, **changes}), encoding="utf-8")


def template(source: object) -> Callable[[Path], None]:
    return lambda folder: change(folder, "tokenizer_config.json", chat_template=source)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


def of_another_kind(folder: Path) -> None:
    value = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    value["model"]["type"] = "Novel"
    (folder / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")


def beside_an_index(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    save_file({"model.norm.weight": torch.ones(4)}, folder / "model-1.safetensors")


def in_two_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    save_file({"a": torch.ones(4)}, folder / "model-1.safetensors")
    save_file({"a": torch.zeros(4), "b": torch.ones(4)}, folder / "model-2.safetensors")


def with_another_head(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = tensors["model.embed_tokens.weight"].clone()
    save_file({**tensors, "lm_head.weight": head}, path)
    # a copy is the same model
    assert judge(folder).errors == []
    head[-1, -1] += 1
    save_file({**tensors, "lm_head.weight": head}, path)


def endless(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        change(folder, name, eos_token_id=None)
    change(folder, "tokenizer_config.json", eos_token="<|not a token of it|>")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "tokenizer is a git-lfs pointer": (
        write("tokenizer.json", LFS_POINTER.encode()),
        "tokenizer.json: a git-lfs pointer .* run 'git lfs pull'",
    ),
    "weights are a git-lfs pointer": (
        write("model.safetensors", LFS_POINTER.encode()),
        "model.safetensors: it is a git-lfs pointer",
    ),
    "an index and a single file": (beside_an_index, "model.safetensors: it lies beside"),
    "one tensor in two files": (in_two_shards, "tensor a is here and in model-1.safetensors"),
    "a tied model with another output table": (with_another_head, "says tie_word_embeddings"),
    "tokenizer is empty": (write("tokenizer.json", b""), "tokenizer.json: empty"),
    "tokenizer is cut": (cut("tokenizer.json"), "tokenizer.json: cannot be read: .* copy it again"),
    "tokenizer is no tokenizer": (write("tokenizer.json", b"{}"), "tokenizer.json: cannot be read"),
    "tokenizer of a kind that is not known": (of_another_kind, "tokenizer.json: cannot be read"),
    "tokenizer is nested deeply": (
        write("tokenizer.json", b"[" * 1_000_000),
        "tokenizer.json: cannot be read",
    ),
    "settings are cut": (cut("tokenizer_config.json"), "tokenizer_config.json: not JSON"),
    "settings are not UTF-8": (write("config.json", b'{"\xff": 1}'), "config.json: not UTF-8"),
    "settings with a byte order mark": (
        write("generation_config.json", b"\xef\xbb\xbf{}"),
        "generation_config.json: begins with the byte order mark of UTF-8",
    ),
    "settings nested deeply": (
        write("generation_config.json", b"[" * 1_000_000),
        "generation_config.json: not JSON",
    ),
    "end token is a text": (
        lambda folder: change(folder, "generation_config.json", eos_token_id="</s>"),
        "eos_token_id is '</s>'",
    ),
    "temperature is a text": (
        lambda folder: change(folder, "generation_config.json", do_sample=True, temperature="warm"),
        "temperature is 'warm'",
    ),
    "greed is a number": (
        lambda folder: change(folder, "generation_config.json", do_sample=0),
        "generation_config.json: do_sample is 0, and must be true or false",
    ),
    "share of the likeliest is too large": (
        lambda folder: change(folder, "generation_config.json", min_p=1.5, top_k=2.5),
        "top_k is 2.5, and must be an integer .*; min_p is 1.5, and must be a number from 0 to 1",
    ),
    "nothing ends an answer": (endless, "answers would never end"),
    "template is missing": (template(None), "neither tokenizer_config.json nor"),
    "template is wrong": (
        template("{% if %}"),
        "tokenizer_config.json: the chat template is wrong",
    ),
    "template makes too much": (
        template("{{ 'a' * 3000000000 }}"),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template takes too long": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template reaches for Python": (
        template("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template wants what nobody gives": (
        template("{{ builtin_tools.names }}"),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template fails with tools only": (
        template("{{ messages[0].content }}{% if tools %}{{ tools[0].nothing.more }}{% endif %}"),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template refuses everything": (
        template("{{ raise_exception('not today') }}"),
        "refuses every conversation: not today",
    ),
    "template leaves the question out": (
        template("{{ bos_token }}Hello"),
        "leaves out what a user",
    ),
    "template file is wrong": (
        write("chat_template.jinja", b"{{"),
        "chat_template.jinja: the chat",
    ),
    "template for tools leaves them out": (
        template(
            [
                {"name": "default", "template": "{{ messages[-1].content }}"},
                {"name": "tool_use", "template": "{{ messages[-1].content }}"},
            ]
        ),
        "the chat template 'tool_use' leaves out the tools",
    ),
    "template for tools fails": (
        template(
            [
                {"name": "default", "template": "{{ messages[-1].content }}"},
                {"name": "tool_use", "template": "{{ tools[0].nothing.more }}"},
            ]
        ),
        "tokenizer_config.json: the chat template cannot render",
    ),
    "template with a name is wrong": (
        template(
            [
                {"name": "default", "template": "{{ messages[-1].content }}"},
                {"name": "rag", "template": "{% for %}"},
            ]
        ),
        "tokenizer_config.json: the chat template is wrong",
    ),
    "several templates, none the default": (
        template([{"name": "rag", "template": "x"}]),
        "without one named 'default'",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_service_could_not_read_is_named_with_file_and_remedy(
    folder: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(folder)
    errors = judge(folder).errors
    assert len(errors) == 1
    assert re.search(says, errors[0])
    assert ";" in errors[0]


def test_everything_that_is_wrong_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    for spoil, _says in (REFUSED["tokenizer is empty"], REFUSED["template is wrong"]):
        spoil(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: empty.*template is wrong"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


ACCEPTED = [
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    "{{ messages[0].content }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}",
    [{"name": "default", "template": "{{ messages[-1].content }}"}, {"name": "x", "template": ""}],
    [
        {"name": "default", "template": "{{ messages[-1].content }}"},
        {"name": "tool_use", "template": "{{ tools | tojson }}{{ messages[-1].content }}"},
    ],
]


@pytest.mark.parametrize("source", ACCEPTED)
def test_a_template_may_refuse_what_it_does_not_know(folder: Path, source: object) -> None:
    template(source)(folder)
    assert judge(folder).errors == []


def test_the_command_says_it_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 0
    assert capfd.readouterr() == ("", "")
    write("tokenizer.json", LFS_POINTER.encode())(folder)
    assert main([str(folder)]) == 1
    said = capfd.readouterr().err
    assert said.startswith(f"deepseek-check: {folder / 'tokenizer.json'}: a git-lfs pointer")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "takes over 1 s"),
        ("import os; os.abort()", "ended with status -6: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "of processor time"),
        ("raise MemoryError", "bytes of memory"),
        ("raise SystemExit('thread panicked')", "ended with status 1: thread panicked"),
        ("print('x' * 2**21)", "ended with status 0"),
    ],
)
def test_a_parser_that_does_not_come_back_ends_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, says: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(TokenizerError, match=f"reading its tokenizer and template {says}|{says}"):
        check(folder, TokenizerError, wait_seconds=1 if "sleep" in program else PATIENCE)


def test_a_panic_in_rust_is_an_error_of_ours() -> None:
    class PanicError(BaseException):
        pass

    with (
        pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be read: index out of"),
        third_party(Path("tokenizer.json"), TokenizerError),
    ):
        raise PanicError("index out of bounds")
    with pytest.raises(KeyboardInterrupt), third_party(Path("x"), TokenizerError):
        raise KeyboardInterrupt


# --- two readers of one file ----------------------------------------------------------------------


def test_the_shipped_checkpoint_is_read_alike_by_all() -> None:
    assert judge(CHECKPOINT).warnings == []
    theirs, ours = AutoTokenizer.from_pretrained(CHECKPOINT), load_tokenizer(CHECKPOINT)
    for probe in (*tokenizer_classes.PROBES, "PKCS#11"):
        assert theirs.encode(probe) == ours.encode(probe).ids


def splitting(folder: Path, pattern: str | None, *, nfc: bool = True) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC() if nfc else normalizers.Sequence([])
    split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def one_token_for_eleven(folder: Path) -> None:
    """As tokenizers are that were trained with GPT-2's own pattern."""
    splitting(folder, None)
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["model"]["vocab"]["11"] = len(value["model"]["vocab"])
    value["model"]["merges"].append(["1", "1"])
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil",
    [
        one_token_for_eleven,
        lambda folder: splitting(folder, tokenizer_classes.QWEN2_SPLIT, nfc=False),
        lambda folder: splitting(folder, r"\s+"),
    ],
    ids=["numbers of several digits", "no normalizer", "white space only"],
)
def test_a_tokenizer_that_transformers_reads_in_another_way_is_said(
    folder: Path, spoil: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    (warning,) = judge(folder).warnings
    assert "transformers and vLLM load it as Qwen2Tokenizer" in warning
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert any(theirs.encode(p) != ours.encode(p).ids for p in tokenizer_classes.PROBES)
    assert main([str(folder)]) == 0
    assert capfd.readouterr().out == f"warning: {warning}\n"


def test_the_classes_are_those_of_transformers(folder: Path) -> None:
    assert tokenizer_classes.QWEN2_SPLIT == tokenization_qwen2.PRETOKENIZE_REGEX
    one_token_for_eleven(folder)
    for model_type in ("qwen2", "qwen3", "llama"):
        for named in ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", None):
            change(folder, "config.json", model_type=model_type)
            change(folder, "tokenizer_config.json", tokenizer_class=named)
            theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
            unlike = any(
                theirs.encode(p, add_special_tokens=False) != ours.encode(p).ids
                for p in tokenizer_classes.PROBES
            )
            assert bool(judge(folder).warnings) == unlike, (model_type, named)
