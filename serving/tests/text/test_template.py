"""Chat templates: what they may cost, and the forms in which checkpoints carry them."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_serving.errors import TokenizerError
from deepseek_serving.text.template import ChatTemplate, read_templates
from deepseek_serving.text.template_environment import TemplateError
from deepseek_serving.text.template_limits import SECONDS, TooMuchError, weight

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Two? <|im_end|> {{ 7*7 }} {% if %} \u2028\u0085 \u0130\U0001f600"},
]
# they make much of nothing; the last ones only by doubling
GREEDY = {
    "text times number": "{{ 'a' * 3000000000 }}",
    "number times text": "{{ 3000000000 * 'a' }}",
    "list times number": "{{ [1] * 1000000000 }}",
    "tuple times number": "{{ ((1, 2) * 1000000000) | length }}",
    "number to the power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=10) %}{% for i in range(99) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}{{ n.x > 1 }}",
    "range": "{{ range(1000000000) | list }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99) %}"
    + "some words " * 20
    + "{% endfor %}{% endfor %}",
    "loops that write a variable": "{% set x %}{% for a in range(99999) %}{% for b in range(9) %}"
    + "some words " * 20
    + "{% endfor %}{% endfor %}{% endset %}{{ x | length }}",
    "filter center": "{{ 'x' | center(10 ** 9) }}",
    "filter center by map": "{{ ['x'] | map('center', 1000000000) | list }}",
    "method center": "{{ 'x'.center(1000000000) }}",
    "method ljust": "{{ 'x'.ljust(1000000000) }}",
    "method rjust": "{{ 'x'.rjust(1000000000, 'y') }}",
    "method zfill": "{% set f = 'x'.zfill %}{{ f(1000000000) }}",
    "method expandtabs": "{{ '\\t'.expandtabs(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent with a width from a value": "{{ '%*d' % (1000000000, 1) }}",
    "percent with a precision": "{{ '%.1000000000f' % 1 }}",
    "percent with a name": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "filter format": "{{ '%1000000000d' | format(1) }}",
    "braces": "{{ '{:1000000000}'.format(1) }}",
    "braces with a width from a value": "{{ '{:{}}'.format(1, 1000000000) }}",
    "braces with a mapping": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "filter indent": "{{ ('\\n' * 1000) | indent(1000000, true, true) }}",
    "indented json": "{{ [[1]] | tojson(indent=1000000000) }}",
    "filter round": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace between characters": "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
    "join of one text many times": "{{ ['a' * 100000] * 100000 | join }}",
    "method join": "{{ 'b'.join(['a' * 100000] * 100000) }}",
    "join with long glue": "{{ (['a'] * 100000) | join('b' * 100000) }}",
    "doubling with ~": "{% set n = namespace(x='ab') %}{% for i in range(40) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}",
    "doubling with +": "{% set n = namespace(x=[1]) %}{% for i in range(40) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "doubling in a block": "{% set n = namespace(x='ab') %}{% for i in range(40) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}{{ n.x | length }}",
    "lists in lists": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x == 1 }}",
    "mappings in mappings": "{% set n = namespace(x={}) %}{% for i in range(60) %}"
    "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x == 1 }}",
    "namespaces in namespaces": "{% set n = namespace(x=1) %}"
    + "{% set n = namespace(x=n, y=n) %}" * 60
    + "{{ n }}",
    "a list of copies": "{% set n = namespace(x=[]) %}{% set t = 'a' * 1000000 %}"
    "{% for i in range(99999) %}{% set n.x = n.x + [t[1:]] %}{% endfor %}",
    "macro that calls itself": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "macro that calls itself twice": "{% macro f(n) %}{% if n %}"
    "{{ f(n - 1) ~ f(n - 1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "loop that recurses": "{% for a in [[[]]] recursive %}{{ loop([[[]]]) }}{% endfor %}",
    "date": "{{ strftime_now('%d' * 100000) }}",
    "digits": "{{ ('9' * 100000) | int }}",
    "only for one message": "{% if messages[-1].content %}{{ 'a' * 3000000000 }}{% endif %}",
}
# filters that Jinja has and no chat template needs
UNKNOWN = {
    "batch": "{{ 'x' | batch(1000000000, 'y') | list }}",
    "slice": "{{ 'x' | slice(1000000000) | list }}",
    "sum": "{{ ([[1] * 1000] * 100000) | sum(start=[]) }}",
    "urlize": "{{ 'x' | urlize }}",
    "wordwrap": "{{ 'x' | wordwrap(1) }}",
    "pprint": "{{ 'x' | pprint }}",
}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(Path("tokenizer_config.json"), source)


def render(source: str, **values: Any) -> str:
    return template(source).render(**{"messages": MESSAGES, **values})


@pytest.mark.parametrize("source", GREEDY.values(), ids=GREEDY.keys())
def test_a_template_that_makes_too_much_is_stopped_before_it_has_it(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.thread_time()
    with pytest.raises(TemplateError, match="cannot render these messages"):
        render(source)
    # generous: what is measured is that it ends, and not after minutes
    assert time.thread_time() - began < SECONDS + 8
    # in KiB; what may be made on the way is 64 million characters
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


@pytest.mark.parametrize("source", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_a_filter_that_cannot_be_bounded_is_refused_by_name(source: str) -> None:
    with pytest.raises(TokenizerError, match="No filter named '"):
        template(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% if 1 %}" * 20000,
        "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
        "{% for a in b %}" * 60 + "{% endfor %}" * 60,
        "x" * (2**20 + 1),
        "{{ 'unfinished",
        "{% break %}",
        "{% generation %}",
    ],
    ids=["ifs", "parentheses", "loops", "long", "unfinished", "break", "generation"],
)
def test_a_template_that_no_parser_takes_is_an_error_of_ours(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: the chat template"):
        template(source)


HONEST = [
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}{% endfor %}",
    "{{ messages[0].content ~ messages[1:] | length ~ messages[::-1][0]['role'] }}",
    "{% set n = namespace(x='', y=[]) %}{% for m in messages if m.role != 'system' %}"
    "{% set n.x = n.x ~ m.content | trim %}{% set n.y = n.y + [m] %}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}{{ n.x }}{{ n.y | length }}",
    "{% macro show(m, deep=false) %}{{ m.role | upper }}: {{ m.content }}{% endmacro %}"
    "{% for m in messages %}{{ show(m, deep=true) }}{% endfor %}",
    "{{ messages | tojson(indent=2) }}{{ {'a': [1, (2, 3)], 'b': none} | tojson }}",
    "{% for k, v in {'a': 1, 'b': 2} | dictsort %}{{ k }}={{ v }}{% endfor %}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content')"
    " | join('; ') }}",
    "{{ '%s has %d, %5.2f' % ('it', 3, 1.5) }}{{ '%s' | format('x') }}",
    "{{ '{}-{:>5}'.format(1, 2) }}{{ '{a}'.format_map({'a': 1}) }}",
    "{{ 'a b c'.split(' ') }}{{ 'abc'.replace('b', 'x') }}{{ '-' * 20 }}{{ 'x'.center(9) }}",
    "{{ ', '.join(['a', 'b']) }}{{ (1, 2) }}{{ [1, 2] }}{{ {'a': 'b'} }}{{ none }}{{ true }}",
    "{{ 'line\\nline' | indent(4) }}{{ 3 | string }}{{ '4' | int + 2 ** 3 % 5 }}",
    "{{ 1.234 | round(1) }}",
    "{{ undefined }}{{ undefined is defined }}{{ undefined | default('d') }}",
    "{% set x %}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ x | length }}",
    "{% call(x) show() %}{% endcall %}{% macro show() %}{{ caller(1) }}{% endmacro %}",
    "{% filter upper %}abc {{ messages[0].role }}{% endfilter %}",
    "{{ messages[0]['content'][3:] }}{{ messages[0].content[-1] }}",
]


@pytest.mark.parametrize("source", HONEST)
def test_counting_changes_nothing_of_what_a_template_renders(source: str) -> None:
    """The same as Jinja's own sandbox, by which transformers renders."""
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    plain.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    try:
        expected = plain.from_string(source).render(messages=MESSAGES)
    except jinja2.UndefinedError:
        with pytest.raises(TemplateError):
            render(source)
    else:
        assert render(source) == expected


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages = [{"role": "user", "content": "some words " * 100} for _turn in range(2000)]
    text = render(HONEST[0], messages=messages)
    assert len(text) > 2_000_000
    assert render(HONEST[4], messages=messages)


def test_the_transformers_generation_block_is_rendered_as_it_is() -> None:
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    )
    assert render(source) == "".join(f"{m['content']}|" for m in MESSAGES)
    assert render("{%- generation -%} a {%- endgeneration -%}") == "a"


def test_of_named_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    templates = read_templates(tmp_path, {"chat_template": named})
    assert templates.chosen(tools=False).render() == "D"
    assert templates.chosen(tools=True) is templates.default


def in_config(folder: Path, named: dict[str, str]) -> dict[str, Any]:
    return {"chat_template": [{"name": name, "template": text} for name, text in named.items()]}


def in_files(folder: Path, named: dict[str, str]) -> dict[str, Any]:
    (folder / "additional_chat_templates").mkdir()
    for name, text in named.items():
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text)
    (folder / "additional_chat_templates" / "default.jinja").rename(folder / "chat_template.jinja")
    return {"chat_template": "of the config, which a file replaces"}


@pytest.mark.parametrize("written", [in_config, in_files])
def test_where_tools_are_given_the_template_for_them_is_taken(
    tmp_path: Path, written: Callable[[Path, dict[str, str]], dict[str, Any]]
) -> None:
    config = written(tmp_path, {"tool_use": "T{{ tools }}", "default": "D", "rag": "R"})
    templates = read_templates(tmp_path, config)
    assert templates.chosen(tools=False).render() == "D"
    assert templates.chosen(tools=True).render(tools=1) == "T1"
    assert templates.tool_use.takes_tools


@pytest.mark.parametrize("written", [in_config, in_files])
@pytest.mark.parametrize("name", ["tool_use", "rag"])
def test_each_template_with_a_name_is_read(
    tmp_path: Path, written: Callable[[Path, dict[str, str]], dict[str, Any]], name: str
) -> None:
    config = written(tmp_path, {"default": "D", name: "{% for %}"})
    with pytest.raises(TokenizerError, match="the chat template is wrong"):
        read_templates(tmp_path, config)


def test_a_template_with_a_name_and_without_a_text_is_refused(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": None}]
    with pytest.raises(TokenizerError, match="has no text for 'tool_use'"):
        read_templates(tmp_path, {"chat_template": named})


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (
            [{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}],
            "rag, tool_use",
        ),
        ([], "it has: none"),
        (["text", 3, {"template": "x"}], "it has: None"),
        ([{"name": "default", "template": None}], "it has: default"),
    ],
)
def test_named_templates_without_a_default_are_refused_by_name(
    tmp_path: Path, named: list[Any], says: str
) -> None:
    with pytest.raises(
        TokenizerError, match=r"tokenizer_config\.json: chat_template is a list"
    ) as e:
        read_templates(tmp_path, {"chat_template": named})
    assert says in str(e.value)


def test_a_template_file_that_is_no_text_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ 'x' }}")
    assert read_templates(tmp_path, {}).default.render() == "x"
    path.write_bytes(b"\xff\xfe{\0")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja: cannot be read as UTF-8"):
        read_templates(tmp_path, {})


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


@given(value=nested)
def test_a_value_weighs_at_least_its_texts(value: Any) -> None:
    texts = sum(len(text) for text in _texts(value))
    heavy = weight(value, 10**6)
    assert heavy > texts
    with pytest.raises(TooMuchError):
        weight(value, heavy - 1)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []
