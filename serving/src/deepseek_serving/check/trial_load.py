"""Whether the service can read a checkpoint or a graph: it is read here as the service reads it.

Run by bounded.py as a process of its own, within bounds of time and memory:
python -m deepseek_serving.check.trial_load DIRECTORY decoder|encoder
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepseek_serving.errors import CheckpointError, ServingError, TokenizerError
from deepseek_serving.model_files.safetensors import has_weights, read_checkpoint
from deepseek_serving.text import documents
from deepseek_serving.text.documents import load_tokenizer, read_object, third_party
from deepseek_serving.text.generation_defaults import ignored, read_defaults, read_generation
from deepseek_serving.text.template import (
    CONFIG_FILE,
    TEMPLATE_FILE,
    TOOL_USE,
    read_templates,
)
from deepseek_serving.text.template_environment import RefusedError, TemplateError
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.text.tokenizer_classes import unlike_its_class

# of processor time; the largest tokenizers load in 3 s
CPU_SECONDS = 120
ADDRESS_SPACE = 6 * 2**30
OUTPUT = 2**20

QUESTION = "What is PKCS#11?"
# what templates, tokenizers and JSON each take for something else
SPECIAL = (
    'Is <|im_end|> a "quoted" {{ text }} {% if %} with \\n, \u2028, \u0085, \u00e9 (e\u0301), '
    "\u4e2d\u6587 and \U0001f600? </think>"
)
SYSTEM = {"role": "system", "content": "Answer in one sentence."}
USER = {"role": "user", "content": QUESTION}
ASSISTANT = {"role": "assistant", "content": "An interface to keys."}
# from the whole exchange to the least: a template may refuse a system prompt, or a second turn
EXCHANGES = (
    [SYSTEM, USER, ASSISTANT, {"role": "user", "content": SPECIAL}],
    [USER, ASSISTANT, {"role": "user", "content": SPECIAL}],
    [{"role": "user", "content": SPECIAL}],
    [USER],
)
TOOLS: list[Mapping[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": 'Look up a "word".',
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string", "description": "\u4e2d\u6587"}},
                "required": ["word"],
            },
        },
    }
]


@dataclass
class Verdict:
    """Errors, of which each ends the matter, and what a person should know all the same."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def judge(directory: Path, *, decoder: bool = True) -> Verdict:
    """Read a checkpoint or graph as the service does; an encoder has no template."""
    verdict = Verdict()
    checks = [_config, _tokenizer, _weights, *((_generation, _template) if decoder else ())]
    verdict.errors += [error for check in checks for error in _failure(check, directory)]
    if not verdict.errors and decoder:
        verdict.errors += [
            error for check in (_defaults, _exchange) for error in _failure(check, directory)
        ]
    if not verdict.errors and decoder:
        verdict.warnings += ignored(directory)
    if not verdict.errors:
        verdict.warnings += unlike_its_class(directory)
    return verdict


def _failure(check: Callable[[Path], None], directory: Path) -> Iterator[str]:
    try:
        check(directory)
    except ServingError as error:
        yield str(error)


def _config(directory: Path) -> None:
    read_object(directory / "config.json", CheckpointError)


def _tokenizer(directory: Path) -> None:
    load_tokenizer(directory)


def _weights(directory: Path) -> None:
    """Headers, index, and an output table of its own; a graph has none of these."""
    if has_weights(directory):
        read_checkpoint(directory, tied=_says_tied(directory))


def _says_tied(directory: Path) -> bool:
    """Whether the model takes its output from its input table."""
    try:
        config = read_object(directory / "config.json", CheckpointError)
    except CheckpointError:
        # which is said once, of the file itself
        return False
    return config.get("tie_word_embeddings") is True


def _generation(directory: Path) -> None:
    read_generation(directory)


def _defaults(directory: Path) -> None:
    """With the tokens that end answers, which the tokenizer has a say in."""
    read_defaults(directory, load_tokenizer(directory).token_to_id)


def _template(directory: Path) -> None:
    read_templates(directory, read_object(directory / CONFIG_FILE, TokenizerError))


def _exchange(directory: Path) -> None:
    """Render what clients send, and read it as tokens."""
    path = directory / (TEMPLATE_FILE if (directory / TEMPLATE_FILE).is_file() else CONFIG_FILE)
    tokenizer = ChatTokenizer(directory)
    text = _rendered(tokenizer, path)
    with third_party(directory / "tokenizer.json", TokenizerError):
        tokens = tokenizer.encode(text, whole=False)
    if not tokens:
        raise TokenizerError(
            f"{directory / 'tokenizer.json'}: makes no token of a conversation; "
            f"{documents.COPY_AGAIN}"
        )


def _rendered(tokenizer: ChatTokenizer, path: Path) -> str:
    """The longest exchange that the template takes, with tools too where it knows them."""
    refusal: TemplateError | None = None
    for messages in EXCHANGES:
        try:
            text = tokenizer.text(messages)
            if tokenizer.takes_tools or tokenizer.has_tool_use:
                with_tools = tokenizer.text(messages, TOOLS)
                if tokenizer.has_tool_use and "look_up" not in with_tools:
                    raise _unusable(path, f"the chat template {TOOL_USE!r} leaves out the tools")
        except RefusedError as error:
            refusal = error
            continue
        except TemplateError as error:
            raise _unusable(path, str(error)) from error
        if QUESTION not in text and "quoted" not in text:
            raise _unusable(path, "the chat template leaves out what a user asks")
        return text
    raise _unusable(path, f"the chat template refuses every conversation: {refusal}")


def _unusable(path: Path, problem: str) -> TokenizerError:
    return TokenizerError(f"{path}: {problem}; take the template that the publisher has now")


def _bound() -> None:
    """Let the kernel end what a parser does not. The service's own sandbox may refuse that."""
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: ADDRESS_SPACE,
        resource.RLIMIT_FSIZE: OUTPUT,
        resource.RLIMIT_CORE: 0,
    }
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    for kind, most in limits.items():
        _soft, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (least, least))
        except (ValueError, OSError):
            # then the time that bounded.py waits is the bound, and the service's own memory limit
            continue


def main() -> int:
    _bound()
    try:
        verdict = judge(Path(sys.argv[1]), decoder=sys.argv[2] == "decoder")
    except MemoryError:
        verdict = Verdict([f"{sys.argv[1]}: reading it takes more than {ADDRESS_SPACE} bytes"])
    print(json.dumps(asdict(verdict)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
