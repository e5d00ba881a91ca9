"""The checkpoint's own chat template: data of a third party, run in a sandbox with bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import nodes

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.client_text import ClientText
from deepseek_serving.text.template_environment import (
    LONGEST_REASON,
    Environment,
    RefusedError,
    Rewriting,
    TemplateError,
)
from deepseek_serving.text.template_limits import METER, Meter, TooMuchError, weight

TEMPLATE_FILE = "chat_template.jinja"
# others than the default, each as NAME.jinja
TEMPLATE_DIRECTORY = "additional_chat_templates"
TOOL_USE = "tool_use"
CONFIG_FILE = "tokenizer_config.json"
# the longest published ones have 20 KiB
SOURCE_LIMIT = 2**20
# a request is bounded before it comes here; this is what may be walked through
INPUT_LIMIT = 64 * 2**20


class ChatTemplate:
    """A template that renders messages within bounds, whatever it does."""

    def __init__(self, path: Path, source: str, client: ClientText | None = None) -> None:
        """`path` names it in messages, `client` marks texts. Raises TokenizerError."""
        self.source = source
        if len(source) > SOURCE_LIMIT:
            raise TokenizerError(
                f"{path}: the chat template has {len(source)} characters, and {SOURCE_LIMIT} is "
                "the most; take the template that the checkpoint's publisher has now"
            )
        environment = Environment(client or ClientText())
        used = METER.set(Meter())
        try:
            parsed = environment.parse(source)
            names = jinja2.meta.find_undeclared_variables(parsed)
            constants = [node.value for node in parsed.find_all(nodes.Const)]
            self._template, self._comparing = (
                _compiled(environment, source, compares=compares) for compares in (False, True)
            )
        except Exception as error:
            # its parser, and Python's compiler behind it, raise what they like on what is nested
            raise TokenizerError(
                f"{path}: the chat template is wrong: {_reason(error)}; take the template that "
                "the checkpoint's publisher has now"
            ) from error
        finally:
            METER.reset(used)
        # what it can be told, and what it compares with or writes
        self.variables = frozenset(names)
        self.constants = frozenset(value for value in constants if isinstance(value, str))
        self.takes_tools = "tools" in names

    def render(self, *, marked: bool = False, **values: Any) -> str:
        """The text. Raises TemplateError; takes at most the time and memory of template_limits.

        `marked`: there are texts among the values in which something is marked.
        """
        template = self._comparing if marked else self._template
        try:
            given = Meter(weight(values, INPUT_LIMIT))
        except TooMuchError as error:
            raise TemplateError("the messages are too long for a chat template") from error
        used = METER.set(given)
        pieces = []
        try:
            for piece in template.root_render_func(template.new_context(values)):
                given.show(len(piece))
                pieces.append(piece)
        except RefusedError:
            raise
        except Exception as error:
            raise TemplateError(
                f"the chat template cannot render these messages: {_reason(error)}"
            ) from error
        finally:
            METER.reset(used)
        return "".join(pieces)


def _compiled(environment: Environment, source: str, *, compares: bool) -> jinja2.Template:
    tree = Rewriting(compares=compares).visit(environment.parse(source))
    tree.set_environment(environment)
    template = environment.from_string(tree)
    # nothing is added to them later, for which each rendering would go through a chain of mappings
    template.globals = dict(environment.globals)
    return template


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:LONGEST_REASON]


@dataclass(frozen=True)
class Templates:
    """The templates of a checkpoint: one for all conversations, and maybe one for those with tools.

    A checkpoint may have several, by names. As in transformers, `tool_use` is taken where tools are
    given, and `default` otherwise; others are for programs that ask for them.
    """

    default: ChatTemplate
    tool_use: ChatTemplate

    def chosen(self, *, tools: bool) -> ChatTemplate:
        return self.tool_use if tools else self.default


def read_templates(
    directory: Path, config: Mapping[str, Any], client: ClientText | None = None
) -> Templates:
    """Those of a checkpoint's or graph's directory, all of them read. Raises TokenizerError."""
    named = {
        name: ChatTemplate(path, text, client)
        for name, (path, text) in _named(directory, config).items()
    }
    default = named["default"]
    return Templates(default, named.get(TOOL_USE, default))


def _named(directory: Path, config: Mapping[str, Any]) -> Mapping[str, tuple[Path, str]]:
    """Where each is and what it says, `default` among them. Files come before the config."""
    file, templates = directory / TEMPLATE_FILE, directory / TEMPLATE_DIRECTORY
    if file.is_file():
        files = {"default": file}
        if templates.is_dir():
            files |= {path.stem: path for path in sorted(templates.glob("*.jinja"))}
            files["default"] = file
        return {name: (path, _text(path)) for name, path in files.items()}
    path = directory / CONFIG_FILE
    found = config.get("chat_template")
    if isinstance(found, list):
        return {name: (path, text) for name, text in _listed(path, found).items()}
    if not isinstance(found, str):
        raise TokenizerError(
            f"{directory}: neither {CONFIG_FILE} nor {TEMPLATE_FILE} has a template; take a chat "
            "model, or the template that its publisher has for it"
        )
    return {"default": (path, found)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: cannot be read as UTF-8: {error}") from error


def _listed(path: Path, named: Sequence[Any]) -> dict[str, str]:
    """Several templates with names."""
    sources = {
        item.get("name"): item.get("template") for item in named if isinstance(item, Mapping)
    }
    if not isinstance(sources.get("default"), str):
        names = ", ".join(sorted(map(str, sources))) or "none"
        raise TokenizerError(
            f"{path}: chat_template is a list of templates (it has: {names}) without one named "
            "'default'; keep the one to be used, as a text"
        )
    texts = {str(name): text for name, text in sources.items() if isinstance(text, str)}
    wrong = [name for name, text in sources.items() if not isinstance(text, str)]
    if wrong:
        raise TokenizerError(
            f"{path}: chat_template has no text for {', '.join(map(repr, wrong))}; take the "
            "templates that the checkpoint's publisher has now"
        )
    return texts
