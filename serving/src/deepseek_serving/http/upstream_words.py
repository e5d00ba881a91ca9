"""What a request asks for, in the words that today's vLLM and SGLang both act on.

Both take parameters that they do not know and do nothing with them, and refuse values that mean
nothing to them: what one of them has another name for, or has no longer, must be said otherwise,
or a client gets an answer that is not the one it asked for. What vLLM 0.32 does with each:
docs/measurements/upstream.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.text.thinking import SWITCHES

Request = dict[str, Any]

# parameters that say what an answer must look like, and the kind of format that each of them gives
FORMATS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",
    "ebnf": "grammar",
}
KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# SGLang's names for what vLLM has in `structured_outputs`
OF_SGLANG = {"regex": "regex", "choice": "regex", "grammar": "ebnf"}
SPECIAL = re.compile(r"([\\.^$*+?{}\[\]|()])")


def in_known_words(sent: Mapping[str, Any], *, developer: bool = True) -> Request:
    """The same request. Raises RefusedError where more than one format is asked for.

    `developer`: the model's template knows that role.
    """
    body = dict(sent)
    _say_format(body)
    _say_thinking(body)
    _say_tools(body)
    _say_sampling(body)
    if "messages" in body:
        _say_messages(body, developer=developer)
    return body


def format_parameter(sent: Mapping[str, Any]) -> str | None:
    """By which of its parameters a request says what the answer must look like."""
    return next(
        (name for name in (*FORMATS, "structured_outputs", "response_format") if name in sent), None
    )


def _taken(body: Request) -> list[tuple[str, str, Any]]:
    """Parameter, kind and content of the formats, which are taken out of the body."""
    found = [(name, FORMATS[name], body.pop(name)) for name in FORMATS if name in body]
    structured = body.get("structured_outputs") or {}
    given = [kind for kind in KINDS if structured.get(kind) not in (None, False)]
    return found + [("structured_outputs", kind, structured[kind]) for kind in given]


def _say_format(body: Request) -> None:
    wanted = body.get("response_format")
    if wanted and wanted["type"] == "json_object" and wanted.get("schema") is not None:
        body["response_format"] = _schema(wanted["schema"])
    found = _taken(body)
    names = [name for name, _kind, _content in found]
    if wanted and wanted["type"] != "text":
        names.append("response_format")
    if len(names) > 1:
        listed = " and ".join(sorted(set(names)))
        raise RefusedError(
            f"an answer can be held to one format, and several are asked for, by {listed}",
            names[-1],
            "invalid_value",
        )
    if not found:
        return
    structured = body.pop("structured_outputs", None) or {}
    options = {k: v for k, v in structured.items() if k not in KINDS and v is not None}
    white_space = body.pop("guided_whitespace_pattern", None)
    if white_space is not None:
        options.setdefault("whitespace_pattern", white_space)
    _name, kind, content = found[0]
    if kind == "json" and not options:
        body["response_format"] = _schema(content)
    elif kind == "json_object" and not options:
        body["response_format"] = {"type": "json_object"}
    else:
        body["structured_outputs"] = {kind: content, **options}
    if kind in OF_SGLANG:
        text = _alternatives(content) if kind == "choice" else content
        body[OF_SGLANG[kind]] = text


def _schema(schema: object) -> Request:
    """As OpenAI says it, which all servers know; a text has been found to be JSON."""
    plain = json.loads(schema) if isinstance(schema, str) else schema
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": plain}}


def _alternatives(texts: list[str]) -> str:
    """A pattern of these texts alone, without escapes that some dialects do not have."""
    return "(" + "|".join(SPECIAL.sub(r"\\\1", text) for text in texts) + ")"


def _say_thinking(body: Request) -> None:
    """Switches of thoughts are variables of templates, each of which ignores the other's."""
    given = [body.pop(name) for name in ("enable_thinking", "thinking") if name in body]
    if not given:
        return
    wanted = given[0]["type"] == "enabled" if isinstance(given[0], dict) else given[0]
    variables = body.get("chat_template_kwargs") or {}
    if not SWITCHES & variables.keys():
        variables = {**dict.fromkeys(sorted(SWITCHES), wanted), **variables}
    body["chat_template_kwargs"] = variables


def _say_tools(body: Request) -> None:
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = {tool["function"]["name"] for tool in allowed["tools"]}
        body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] in names]
        body["tool_choice"] = allowed["mode"]
    if not body.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)


def _say_sampling(body: Request) -> None:
    """The likeliest token each time, where servers have no such value or take it once only."""
    if body.get("top_p") == 0:
        del body["top_p"]
        body["top_k"] = 1
    if body.get("temperature") == 0 and body.get("n", 1) > 1:
        body |= {"temperature": 1, "top_k": 1}


def _say_messages(body: Request, *, developer: bool) -> None:
    messages = body["messages"]
    if any(map(_is_ours_alone, messages)) or not developer:
        body["messages"] = [_message(message, developer=developer) for message in messages]
    if messages[-1].get("prefix"):
        body["continue_final_message"] = True
    if body.get("continue_final_message"):
        body.setdefault("add_generation_prompt", False)


def _is_ours_alone(message: Mapping[str, Any]) -> bool:
    return "prefix" in message or message.get("refusal") is not None


def _message(message: Mapping[str, Any], *, developer: bool) -> Request:
    said = {name: value for name, value in message.items() if name != "prefix"}
    if said.get("content") is None and said.get("refusal") is not None:
        said["content"] = said.pop("refusal")
    if said.get("role") == "developer" and not developer:
        said["role"] = "system"
    return said


def name_thoughts(choice: Mapping[str, Any]) -> None:
    """Give thoughts the name that they have here, beside vLLM's own, in a choice of an answer."""
    for name in ("delta", "message"):
        said = choice.get(name)
        if isinstance(said, dict) and said.get("reasoning") is not None:
            said["reasoning_content"] = said["reasoning"]
