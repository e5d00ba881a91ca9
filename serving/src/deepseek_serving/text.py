"""From messages to prompt tokens, and from tokens back to text as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from deepseek_serving.errors import ServingError


class TemplateError(ValueError):
    """The chat template refuses these messages."""


class TokenizerError(ServingError):
    """The graph folder's tokenizer files cannot be used."""


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _load_object(path: Path) -> Mapping[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return value


def _special(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    return str(value["content"]) if isinstance(value, dict) else str(value or "")


def _compile(folder: Path, config: Mapping[str, Any]) -> jinja2.Template:
    """The checkpoint's own chat template, in a sandbox: it is data, not trusted code."""
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        raise TokenizerError(f"{folder}: neither tokenizer_config.json nor a file has a template")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise TokenizerError(f"{folder}: the chat template is wrong: {error}") from error


@dataclass(frozen=True)
class Defaults:
    """What the checkpoint's generation_config.json asks for."""

    end_tokens: frozenset[int]
    temperature: float
    top_p: float


def read_defaults(folder: Path) -> Defaults:
    """Sampling defaults and end-of-sequence tokens, from generation_config.json and config.json."""
    path = folder / "generation_config.json"
    generation = _load_object(path) if path.is_file() else {}
    end = generation.get("eos_token_id")
    if end is None:
        end = _load_object(folder / "config.json").get("eos_token_id", [])
    greedy = generation.get("do_sample") is False
    return Defaults(
        end_tokens=frozenset([end] if isinstance(end, int) else end or []),
        temperature=0.0 if greedy else float(generation.get("temperature") or 1.0),
        top_p=float(generation.get("top_p") or 1.0),
    )


class ChatTokenizer:
    """Tokenizer and chat template of a graph folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _load_object(folder / "tokenizer_config.json")
        self._template = _compile(folder, config)
        self._specials = {
            name: _special(config, name) for name in ("bos_token", "eos_token", "pad_token")
        }

    def text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation so far, ready for the assistant's turn."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._specials
            )
        except (jinja2.TemplateError, TypeError, KeyError) as error:
            raise TemplateError(
                f"the chat template cannot render these messages: {error}"
            ) from error

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The same as tokens."""
        # the template writes special tokens itself
        return list(self._tokenizer.encode(self.text(messages), add_special_tokens=False).ids)

    def stream(self) -> TextStream:
        return TextStream(self._tokenizer)


class TextStream:
    """Text of a growing sequence of tokens; holds back bytes that are not yet a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        return self._decoder.step(self._tokenizer, token) or ""


class StopScanner:
    """Passes text on until a stop string appears; holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that may be shown now."""
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = self._possible_start()
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0

    def finish(self) -> str:
        """What was held back, once no more text will come."""
        shown, self._held = self._held, ""
        return shown
