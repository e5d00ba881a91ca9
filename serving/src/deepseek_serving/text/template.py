"""The checkpoint's own chat template: data of a third party, run in a sandbox with bounds."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.template_limits import (
    FILTERS,
    METER,
    REFUSED_METHODS,
    Meter,
    TooMuchError,
    judge_filter,
    judge_method,
    judge_operation,
    meter,
    size,
    weight,
)

TEMPLATE_FILE = "chat_template.jinja"
# others than the default, each as NAME.jinja
TEMPLATE_DIRECTORY = "additional_chat_templates"
TOOL_USE = "tool_use"
CONFIG_FILE = "tokenizer_config.json"
# the longest published ones have 20 KiB
SOURCE_LIMIT = 2**20
# a request is bounded before it comes here; this is what may be walked through
INPUT_LIMIT = 64 * 2**20
LONGEST_REASON = 500
LONGEST_DATE_FORMAT = 100


class TemplateError(ValueError):
    """The chat template refuses these messages, or fails on them."""


class RefusedError(TemplateError):
    """The template itself says that it does not take these messages."""


def _refuse(message: object) -> NoReturn:
    raise RefusedError(str(message)[:LONGEST_REASON])


def _now(form: str) -> str:
    if len(form) > LONGEST_DATE_FORMAT:
        raise TooMuchError(f"its date has a format of more than {LONGEST_DATE_FORMAT} characters")
    return datetime.now().astimezone().strftime(form)


def _json(value: object, indent: int | None = None, **_options: object) -> str:
    """As templates expect it: readable, where Jinja's own filter would escape it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _bounded(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments are judged before it runs, and whose result is counted."""
    # those that are marked take a context first
    first = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @functools.wraps(filter_)
    def judged(*args: Any, **kwargs: Any) -> Any:
        result = filter_(*args[:first], *judge_filter(name, args[first:], kwargs), **kwargs)
        meter().make(size(result))
        return result

    return judged


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, by which transformers finds the assistant's part: rendered as it is."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything that a template makes is counted."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self.shown,
        )
        known = {**jinja2.filters.FILTERS, "tojson": _json}
        self.filters = {name: _bounded(name, known[name]) for name in FILTERS}
        for name in ("lipsum", "cycler"):
            del self.globals[name]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes) and attr in REFUSED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        judge_operation(meter(), operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        used = meter()
        used.step()
        text = getattr(obj, "__self__", None)
        if text is None:
            # Jinja's own stand-in for str.format has the method that it stands for
            text = getattr(getattr(obj, "__wrapped__", None), "__self__", None)
        if isinstance(text, str):
            args = judge_method(used, text, obj.__name__, args, _of_the_template(kwargs))
        result = super().call(context, obj, *args, **kwargs)
        used.make(size(result))
        if isinstance(result, dict):
            used.weigh(result)
        return result

    # --- what `_Counting` puts into every template

    def step(self) -> str:
        """A turn of a loop; `call` has counted it."""
        return ""

    def made(self, value: Any) -> Any:
        """A list, tuple or mapping that may hold others, and those others again."""
        meter().weigh(value)
        return value

    def joined(self, *parts: Any) -> str:
        """The operator `~`."""
        meter().make(sum(map(meter().weigh, parts)))
        return "".join(map(str, parts))

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        return value[start:stop:step]

    def shown(self, value: Any) -> Any:
        """What stands in `{{ }}`."""
        if isinstance(value, str | jinja2.Undefined):
            return value
        meter().make(meter().weigh(value))
        return str(value)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """What a macro or a block has written, as one text."""
        pieces = list(pieces)
        meter().make(sum(map(len, pieces)))
        return "".join(pieces)


def _of_the_template(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what Jinja adds for itself."""
    return {name: value for name, value in kwargs.items() if not name.startswith("_")}


class _Counting(NodeTransformer):
    """Makes a template count: its loops, and what it makes without a call or an operator."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body.insert(0, nodes.ExprStmt(_call(node, "step")))
        elif isinstance(node, nodes.Concat):
            return _call(node, "joined", *node.nodes)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            cut = (node.arg.start, node.arg.stop, node.arg.step)
            return _call(node, "sliced", node.node, *(part or nodes.Const(None) for part in cut))
        elif isinstance(node, nodes.List | nodes.Tuple | nodes.Dict) and _may_hold_others(node):
            return _call(node, "made", node)
        return node


def _may_hold_others(node: nodes.List | nodes.Tuple | nodes.Dict) -> bool:
    # a tuple may also be the names that a loop sets
    loads = getattr(node, "ctx", "load") == "load"
    return loads and not all(isinstance(item, nodes.Const) for item in node.items)


def _call(at: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Call:
    method = nodes.EnvironmentAttribute(name)
    return nodes.Call(method, list(args), [], None, None, lineno=at.lineno)


class ChatTemplate:
    """A template that renders messages within bounds, whatever it does."""

    def __init__(self, path: Path, source: str) -> None:
        """`path` names it in messages. Raises TokenizerError."""
        self.source = source
        if len(source) > SOURCE_LIMIT:
            raise TokenizerError(
                f"{path}: the chat template has {len(source)} characters, and {SOURCE_LIMIT} is "
                "the most; take the template that the checkpoint's publisher has now"
            )
        environment = _Environment()
        used = METER.set(Meter())
        try:
            names = jinja2.meta.find_undeclared_variables(environment.parse(source))
            tree = _Counting().visit(environment.parse(source))
            tree.set_environment(environment)
            self._template = environment.from_string(tree)
        except Exception as error:
            # its parser, and Python's compiler behind it, raise what they like on what is nested
            raise TokenizerError(
                f"{path}: the chat template is wrong: {_reason(error)}; take the template that "
                "the checkpoint's publisher has now"
            ) from error
        finally:
            METER.reset(used)
        self.takes_tools = "tools" in names

    def render(self, **values: Any) -> str:
        """The text. Raises TemplateError; takes at most the time and memory of template_limits."""
        try:
            given = Meter(weight(values, INPUT_LIMIT))
        except TooMuchError as error:
            raise TemplateError("the messages are too long for a chat template") from error
        used = METER.set(given)
        pieces = []
        try:
            for piece in self._template.root_render_func(self._template.new_context(values)):
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


def read_templates(directory: Path, config: Mapping[str, Any]) -> Templates:
    """Those of a checkpoint's or graph's directory, all of them read. Raises TokenizerError."""
    named = {
        name: ChatTemplate(path, text) for name, (path, text) in _named(directory, config).items()
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
