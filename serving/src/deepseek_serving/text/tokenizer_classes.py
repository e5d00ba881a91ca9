"""Whether transformers reads a text as the checkpoint's tokenizer.json does.

AutoTokenizer puts a class of its own in front of the file for some models, and that class puts its
own normalizer and pre-tokenizer in the place of the file's. vLLM and SGLang read prompts so; this
service reads them by the file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.documents import load_tokenizer, read_object, third_party

PROBES = (
    "PKCS#11, TLS 1.3 and 2026-11-28 at 12:34:56",
    "It's don't I'LL they're",
    "a  b   c\n\n  d\t\te \r\n",
    "caf\u00e9 cafe\u0301 na\u00efve \u4e2d\u6587\u5b57 \u65e5\u672c \U0001f600\u200d\U0001f4bb",
    "def f(x):\n    return x**2  # 100%\n",
    "Gr\u00f6\u00dfe: 3,14 \u20ac; \u0661\u0662\u0663 \u2460",
)
# transformers/models/qwen2/tokenization_qwen2.py; a test compares with it
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _qwen2(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(
                add_prefix_space=bool(config.get("add_prefix_space")), use_regex=False
            ),
        ]
    )


# What a class puts in the place of what the file says.
CLASSES: Mapping[str, Callable[[Tokenizer, Mapping[str, Any]], None]] = {"Qwen2Tokenizer": _qwen2}
# What stands for a model that names none; for some, also where tokenizer_config.json names another.
BY_MODEL = {"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}
WHATEVER_IS_NAMED = frozenset(("qwen2",))


def class_of(model_type: object, named: object) -> str:
    """The class that AutoTokenizer takes, as far as it is known here."""
    own = BY_MODEL.get(str(model_type), "")
    if model_type in WHATEVER_IS_NAMED or not isinstance(named, str):
        return own
    return named.removesuffix("Fast")


def unlike_its_class(directory: Path) -> list[str]:
    """A warning, if a text is not read alike. Raises TokenizerError."""
    config = read_object(directory / "tokenizer_config.json", TokenizerError)
    model_type = read_object(directory / "config.json", TokenizerError).get("model_type")
    name = class_of(model_type, config.get("tokenizer_class"))
    if name not in CLASSES:
        return []
    path = directory / "tokenizer.json"
    as_file, as_class = load_tokenizer(directory), load_tokenizer(directory)
    with third_party(path, TokenizerError):
        CLASSES[name](as_class, config)
        for probe in PROBES:
            mine, theirs = (
                tokenizer.encode(probe, add_special_tokens=False).tokens
                for tokenizer in (as_file, as_class)
            )
            if mine != theirs:
                return [_difference(path, name, mine, theirs)]
    return []


def _difference(path: Path, name: str, mine: list[str], theirs: list[str]) -> str:
    place = next(
        (at for at, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), 0
    )
    return (
        f"{path}: transformers and vLLM load it as {name}, which reads texts in another way than "
        f"the file says: {theirs[place : place + 3]} where this service reads "
        f"{mine[place : place + 3]}; ask the checkpoint's publisher which of the two the model "
        "was trained with"
    )
