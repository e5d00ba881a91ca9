"""What a chat template may cost while it renders: steps, time, and the size of what it makes.

Jinja's own sandbox confines what a template reaches, not what it makes of it: `'a' * 3000000000`,
`x|center(10**9)` and ten nested loops are all allowed there. Every operation that makes more than
it was given is judged here before it is done.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2.utils import Namespace

# One text or list that a template makes, in characters or items: this, and so many times what it
# was given. Escaping makes six characters of one.
LONGEST = 2**20
LONGEST_PER_GIVEN = 8
# All texts and lists that it makes on the way.
MADE = 64 * 2**20
MADE_PER_GIVEN = 16
# Turns of loops, and calls of macros, functions and filters.
STEPS = 250_000
# Of processor time of the thread that renders, so that a busy host changes nothing. Published
# templates take 1 ms for a short conversation, and 20 ms for one of 2 MiB.
SECONDS = 0.25
SECONDS_PER_GIVEN = 2.0**-20
STEPS_BETWEEN_LOOKS = 64
# 2**4096 has 1234 digits; Python itself refuses to write more than 4300.
INTEGER_BITS = 4096
INTEGER_DIGITS = 4096
WIDEST_FIELD = 999
PLACES = 100
# characters that JSON in ASCII makes of one
ESCAPED = 12

# Every value is asked for these; a union would be made for each question.
TEXTS = (str, bytes)
SERIES = (list, tuple, set, frozenset)
# a class of its own first: whether one is a kind of mapping takes longer than all others
MAPPINGS = (dict, Mapping)
COPIED = (str, bytes, list, tuple, dict, set)

PERCENT_FIELD = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?")


class TooMuchError(Exception):
    """The template makes more than a template may."""


class Meter:
    """What one rendering has used. `given` is the size of its input, in characters."""

    def __init__(self, given: int = 0) -> None:
        self.longest = LONGEST + LONGEST_PER_GIVEN * given
        self._made = MADE + MADE_PER_GIVEN * given
        self._shown = 0
        self._steps = 0
        self._seconds = SECONDS + SECONDS_PER_GIVEN * given
        self._deadline = time.thread_time() + self._seconds

    def step(self) -> None:
        """Count a turn of a loop or a call. Raises TooMuchError."""
        self._steps += 1
        if self._steps > STEPS:
            raise TooMuchError(f"it takes more than {STEPS} steps")
        if self._steps % STEPS_BETWEEN_LOOKS == 0 and time.thread_time() > self._deadline:
            raise TooMuchError(f"it takes more than {self._seconds:.2f} s of processor time")

    def make(self, size: int) -> None:
        """Count a text or a list before or after it is made. Raises TooMuchError."""
        if size > self.longest:
            raise TooMuchError(
                f"it makes a text or list of {size}, and {self.longest} is the most for this input"
            )
        self._made -= size
        if self._made < 0:
            raise TooMuchError("all that it makes on the way is too much for this input")

    def show(self, size: int) -> None:
        """Count a piece of the result. Raises TooMuchError."""
        self._shown += size
        if self._shown > self.longest:
            raise TooMuchError(
                f"its result has more than {self.longest} characters, the most for this input"
            )

    def weigh(self, value: object) -> int:
        """Size of a value with all that is in it, as text. Raises TooMuchError."""
        return weight(value, self.longest)


METER: ContextVar[Meter] = ContextVar("template_meter")


def meter() -> Meter:
    """That of the rendering in progress; one of its own for what is computed at compile time."""
    try:
        return METER.get()
    except LookupError:
        return Meter()


def weight(value: object, most: int) -> int:
    """Characters and items of a value, at every depth. Raises TooMuchError beyond `most`.

    What stands in it twice counts twice: that is how it would be written.
    """
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        total += 1
        if isinstance(item, TEXTS):
            total += len(item)
        elif isinstance(item, int):
            _integer(item.bit_length())
        elif isinstance(item, SERIES):
            waiting.extend(item)
        elif item is not None and isinstance(item, MAPPINGS):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, Namespace):
            # it may hold itself
            raise TooMuchError("it uses a namespace as a text")
        if total + len(waiting) > most:
            raise TooMuchError(f"it makes a text of more than {most} characters")
    return total


def size(value: object) -> int:
    """Of what is copied when the value is."""
    return len(value) if isinstance(value, COPIED) else 0


def _integer(bits: int) -> None:
    if bits > INTEGER_BITS:
        raise TooMuchError(f"it makes a number of more than {INTEGER_BITS} bits")


def _field(width: str) -> None:
    if width and (width == "*" or len(width) > len(str(WIDEST_FIELD))):
        raise TooMuchError(f"it makes a field wider than {WIDEST_FIELD} characters")


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 0


# --- operators ------------------------------------------------------------------------------------


def judge_operation(used: Meter, operator: str, left: Any, right: Any) -> None:
    """Refuse what an arithmetic operator would make too large. Raises TooMuchError."""
    if operator == "%" and isinstance(left, str):
        judge_percent(used, left, right)
    elif operator == "+":
        used.make(size(left) + size(right))
        _integer(max(_bits(left), _bits(right)) + 1)
    elif operator == "*":
        times = next((value for value in (left, right) if isinstance(value, int)), 0)
        used.make((size(left) + size(right)) * max(times, 0))
        _integer(_bits(left) + _bits(right))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _integer(_bits(left) * max(right, 0))


def judge_percent(used: Meter, form: str, values: object) -> None:
    """Refuse a text that %-formatting would make too long. Raises TooMuchError."""
    fields = 0
    for field in PERCENT_FIELD.finditer(form):
        fields += 1
        _field(field[1])
        _field(field[2] or "")
    used.make(len(form) + fields * (WIDEST_FIELD + used.weigh(values)))


def judge_braces(used: Meter, form: str, values: object) -> None:
    """The same for str.format. Raises TooMuchError, or ValueError for a form that is none."""
    fields = 0
    for _text, _name, spec, _conversion in string.Formatter().parse(form):
        fields += 1
        if spec and "{" in spec:
            raise TooMuchError("it makes the width of a field from a value")
        for width in re.findall(r"\d+", spec or ""):
            _field(width)
    used.make(len(form) + fields * (WIDEST_FIELD + used.weigh(values)))


# --- methods of texts -----------------------------------------------------------------------------


def _wide(used: Meter, text: str, width: object = 0, *_fill: object) -> None:
    used.make(max(len(text), width if isinstance(width, int) else 0))


def _replaced(used: Meter, text: str, old: object, new: object, *_count: object) -> None:
    if isinstance(old, str) and isinstance(new, str):
        used.make(len(text) + text.count(old) * len(new))


def _joined(used: Meter, text: str, items: Sequence[Any]) -> None:
    used.make(used.weigh(items) + len(text) * len(items))


METHODS: Mapping[str, Callable[..., None]] = {
    "center": _wide,
    "ljust": _wide,
    "rjust": _wide,
    "zfill": _wide,
    "replace": _replaced,
}
# what chat templates have no use for, and would need a judgement of its own
REFUSED_METHODS = frozenset(("encode", "expandtabs", "translate"))


def judge_method(
    used: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Refuse what a text's method would make too long; arguments that can be used once are kept."""
    if name == "join" and len(args) == 1:
        args = (kept(used, args[0]),)
        _joined(used, text, args[0])
    elif name in ("format", "format_map"):
        judge_braces(used, text, [*args, *kwargs.values()])
    elif name in METHODS:
        METHODS[name](used, text, *args, *kwargs.values())
    return args


def kept(used: Meter, items: Iterable[Any]) -> Sequence[Any]:
    """Items of what may be a generator, of which there may be so many. Raises TooMuchError."""
    if isinstance(items, str | list | tuple):
        return items
    found: list[Any] = []
    for item in items:
        found.append(item)
        used.make(1)
    return found


# --- filters --------------------------------------------------------------------------------------


def _judge_center(used: Meter, value: Any, width: Any = 80) -> None:
    _wide(used, str(value), width)


def _judge_indent(used: Meter, value: Any, width: Any = 4, *_more: Any, **_named: Any) -> None:
    lines = str(value).count("\n") + 1
    used.make(len(value) + lines * (len(width) if isinstance(width, str) else int(width)))


def _judge_replace(used: Meter, value: Any, old: Any, new: Any, *_more: Any, **_named: Any) -> None:
    _replaced(used, str(value), str(old), str(new))


def _judge_text(used: Meter, value: Any, *_more: Any, **_named: Any) -> None:
    used.make(used.weigh(value))


def _judge_json(
    used: Meter,
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    *_more: Any,
    **_named: Any,
) -> None:
    width = len(indent) if isinstance(indent, str) else int(indent or 0)
    between = used.weigh(separators) if separators else 0
    escaped = ESCAPED if ensure_ascii else 1
    used.make(used.weigh(value) * (escaped + max(width, 0) + between))


def _judge_format(used: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    judge_percent(used, str(value), kwargs or args)


def _judge_int(used: Meter, value: Any, *_more: Any, **_named: Any) -> None:
    if isinstance(value, str) and len(value) > INTEGER_DIGITS:
        raise TooMuchError(f"it reads a number of more than {INTEGER_DIGITS} digits")


def _judge_round(used: Meter, value: Any, precision: Any = 0, *_more: Any, **_named: Any) -> None:
    if not isinstance(precision, int) or abs(precision) > PLACES:
        raise TooMuchError(f"it rounds to more than {PLACES} places")


def _judge_nothing(used: Meter, *_args: Any, **_named: Any) -> None:
    """What comes out is no more than what goes in."""


# Those that templates may use, with what judges them. What Jinja has beside these is refused when
# the template is compiled: `batch`, `slice` and `sum` build lists of any length, `urlize`,
# `striptags` and `wordwrap` take time that grows with the square.
FILTERS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(
        (
            *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "first", "float"),
            *("groupby", "items", "last", "length", "list", "lower", "map", "max", "min"),
            *("reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "title"),
            *("trim", "truncate", "unique", "upper", "wordcount"),
        ),
        _judge_nothing,
    ),
    "center": _judge_center,
    "e": _judge_text,
    "escape": _judge_text,
    "format": _judge_format,
    "indent": _judge_indent,
    "int": _judge_int,
    "join": _judge_nothing,
    "replace": _judge_replace,
    "round": _judge_round,
    "string": _judge_text,
    "tojson": _judge_json,
}


def judge_filter(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Judge a filter's arguments, its value first; gives those to call it with."""
    used = meter()
    used.step()
    if name == "join":
        items = kept(used, args[0])
        between = [*args[1:2], *kwargs.values()]
        _joined(used, str(between[0]) if between else "", items)
        return (items, *args[1:])
    FILTERS[name](used, *args, **kwargs)
    return args
