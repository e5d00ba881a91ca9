"""The sandbox of chat templates: what they may use, what it costs, and what they see of texts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.sandbox
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from deepseek_serving.text.client_text import OPERATORS, ClientText
from deepseek_serving.text.template_limits import (
    FILTERS,
    REFUSED_METHODS,
    TooMuchError,
    judge_filter,
    judge_method,
    judge_operation,
    meter,
    size,
)

LONGEST_REASON = 500
LONGEST_DATE_FORMAT = 100
# Jinja's names of tests that compare
TESTS = {("eq", "equalto", "=="): "eq", ("ne", "!="): "ne", ("in",): "in"}


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


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything that a template makes is counted.

    What looks into a text sees a client's characters as they were; `client` has marked them.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, client: ClientText) -> None:
        self._client = client
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self.shown,
        )
        known = {**jinja2.filters.FILTERS, **self._filters(client)}
        self.filters = {name: _bounded(name, known[name]) for name in FILTERS}
        for name in ("lipsum", "cycler"):
            del self.globals[name]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now
        for names, operation in TESTS.items():

            def compare(left: Any, right: Any, operation: str = operation) -> Any:
                return client.compare(operation, left, right)

            self.tests |= dict.fromkeys(names, compare)

    @staticmethod
    def _filters(client: ClientText) -> dict[str, Callable[..., Any]]:
        """Those that look into a text, or write its characters in another way."""

        def trim(value: Any, chars: str | None = None) -> str:
            return str(_done(client, str(value), "strip", chars))

        def replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
            counted = -1 if count is None else count
            return str(_done(client, str(value), "replace", str(old), str(new), counted))

        def escape(value: Any) -> Any:
            return jinja2.filters.FILTERS["e"](client.plain(str(value)))

        return {
            "tojson": client.json,
            "trim": trim,
            "replace": replace,
            "e": escape,
            "escape": escape,
        }

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
        own = getattr(obj, "__func__", None)
        if own is Environment.compared:
            return self.compared(*args)
        used = meter()
        used.step()
        if own is Environment.step:
            return ""
        text = getattr(obj, "__self__", None)
        if text is None:
            # Jinja's own stand-in for str.format has the method that it stands for
            text = getattr(getattr(obj, "__wrapped__", None), "__self__", None)
        if isinstance(text, str):
            named = _of_the_template(kwargs)
            args = judge_method(used, self._client.plain(text), obj.__name__, args, named)
            found = self._client.method(text, obj.__name__, args, named)
            if found is not None:
                used.make(size(found[0]))
                return found[0]
        result = super().call(context, obj, *args, **kwargs)
        used.make(size(result))
        if isinstance(result, dict):
            used.weigh(result)
        return result

    # --- what `Rewriting` puts into every template

    def compared(self, operation: str, left: Any, right: Any) -> Any:
        return self._client.compare(operation, left, right)

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


def _done(client: ClientText, text: str, name: str, *args: Any) -> Any:
    found = client.method(text, name, args, {})
    return getattr(text, name)(*args) if found is None else found[0]


def _of_the_template(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what Jinja adds for itself."""
    return {name: value for name, value in kwargs.items() if not name.startswith("_")}


class Rewriting(NodeTransformer):
    """Makes a template count its loops, and what it makes without a call or an operator.

    `compares`: it also compares texts as they were before they were marked.
    """

    def __init__(self, *, compares: bool) -> None:
        self._compares = compares

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body.insert(0, nodes.ExprStmt(_call(node, "step")))
        elif isinstance(node, nodes.Concat):
            return _call(node, "joined", *node.nodes)
        elif self._compares and isinstance(node, nodes.Compare) and len(node.ops) == 1:
            (operand,) = node.ops
            if operand.op not in OPERATORS:
                return node
            return _call(node, "compared", nodes.Const(operand.op), node.expr, operand.expr)
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
