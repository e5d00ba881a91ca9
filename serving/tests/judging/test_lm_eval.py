"""lm-evaluation-harness judges the served model as transformers does in its own process.

The tasks and the command are those of docs/how-to/model_judge.md. In the environment that
`make judge` installs, which takes 640 MB; with ONPREM_TEST_ALL=true.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Reference
from support import CHECKPOINT, MODEL, ROOT, VERSION, serve_app, trained

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime.onnxruntime import OnnxRuntimeEngine
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

PAGE = ROOT / "docs" / "how-to" / "model_judge.md"
LM_EVAL = ROOT / ".cache" / "judge-venv" / "bin" / "lm_eval"
ITEMS, CHOICES = 20, 4

pytestmark = pytest.mark.skipif(
    os.environ.get("ONPREM_TEST_ALL") != "true", reason="make judge installs 640 MB"
)


def fenced(kind: str) -> list[str]:
    found = re.findall(
        rf"^ +```{kind}\n(.*?)^ +```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for block in found]


def documents() -> list[dict[str, Any]]:
    """Questions with the right answer among others, at changing places; some are made wrong."""
    # one question for each answer
    pairs = list({answer: question for question, answer in trained()}.items())[:ITEMS]
    answers = [answer for answer, _question in pairs]
    made = []
    for number, (answer, question) in enumerate(pairs):
        choices = (answers[number + 1 :] + answers[:number])[: CHOICES - 1]
        choices.insert(number % CHOICES, answer)
        # as an author errs: every fifth key is that of another answer
        gold = (number + (number % 5 == 0)) % CHOICES
        made.append({"question": question, "choices": choices, "gold": gold})
    return made


@pytest.fixture(scope="module")
def url(graph: Path) -> Iterator[str]:
    engine = OnnxRuntimeEngine(graph, threads=1, slots=4, max_len=512)
    scheduler = Scheduler(engine, Limits(queue=8))
    service = Service(Release(MODEL, VERSION, "0" * 64, graph), scheduler, ChatTokenizer(graph))
    scheduler.start()
    with serve_app(create_app(service)) as served:
        yield served


@pytest.fixture(scope="module")
def results(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's command has left what it found."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "tasks").mkdir()
    for name, task in zip(("choice", "answer"), fenced("yaml"), strict=True):
        (folder / "tasks" / f"{name}.yaml").write_text(task, encoding="utf-8")
    lines = "".join(json.dumps(document) + "\n" for document in documents())
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    (folder / "checkpoint").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / "checkpoint" / name).symlink_to(CHECKPOINT / name)
    (console,) = fenced("console")
    command = console.replace("\\\n", " ").split("$ lm_eval ", 1)[1]
    for written, here in (
        ("https://deepseek.example.org", url),
        ("model=r1-distill", f"model={MODEL}"),
        (",ca_cert_path=ca.pem", ""),
    ):
        assert written in command
        command = command.replace(written, here)
    done = subprocess.run(
        [str(LM_EVAL), *shlex.split(command)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "OPENAI_API_KEY": "unused",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "results"


def scores(results: Path) -> dict[str, dict[str, Any]]:
    (path,) = results.rglob("results_*.json")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))["results"]
    return found


def samples(results: Path, task: str) -> list[dict[str, Any]]:
    (path,) = results.rglob(f"samples_{task}_*.jsonl")
    lines = path.read_text("utf-8").rstrip("\n").split("\n")
    return sorted(map(json.loads, lines), key=lambda sample: int(sample["doc_id"]))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(CHECKPOINT)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(CHECKPOINT)


def asked(tokenizer: ChatTokenizer, document: dict[str, Any]) -> str:
    return tokenizer.text([{"role": "user", "content": document["question"]}])


def log_likelihood(reference: Reference, prompt: Sequence[int], whole: Sequence[int]) -> float:
    rows = reference.logits(list(whole)).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    places = range(len(prompt), len(whole))
    return float(sum(rows[place - 1, whole[place]] for place in places))


def test_choices_have_the_log_probabilities_of_transformers(
    results: Path, reference: Reference, tokenizer: ChatTokenizer
) -> None:
    right = 0
    found = samples(results, "local_choice")
    assert len(found) == ITEMS
    for sample, document in zip(found, documents(), strict=True):
        text = asked(tokenizer, document)
        # white space at the end of a question counts as part of the answers
        prompt = tokenizer.encode(text.rstrip(), whole=False)
        expected = [
            log_likelihood(reference, prompt, tokenizer.encode(text + choice, whole=False))
            for choice in document["choices"]
        ]
        got = [float(response[0]) for response in sample["filtered_resps"]]
        assert got == pytest.approx(expected, abs=1e-3)
        right += expected.index(max(expected)) == document["gold"]
    assert 0 < right < ITEMS
    assert scores(results)["local_choice"]["acc,none"] == pytest.approx(right / ITEMS)


def test_answers_are_those_of_transformers(
    results: Path, reference: Reference, tokenizer: ChatTokenizer
) -> None:
    right = 0
    found = samples(results, "local_answer")
    assert len(found) == ITEMS
    for sample, document in zip(found, documents(), strict=True):
        tokens = reference.greedy(tokenizer.encode(asked(tokenizer, document), whole=False), 64)
        assert 2 in tokens
        answer = tokenizer.decode(tokens[: tokens.index(2)])
        assert sample["filtered_resps"] == [answer]
        right += answer == document["choices"][document["gold"]]
    assert 0 < right < ITEMS
    assert scores(results)["local_answer"]["exact_match,none"] == pytest.approx(right / ITEMS)
