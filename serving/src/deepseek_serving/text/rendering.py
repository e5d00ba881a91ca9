"""A conversation as its template writes it, with all that transformers would tell the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_serving.text import thinking
from deepseek_serving.text.client_text import END_OF_TEXT, ClientText
from deepseek_serving.text.prompt_options import OptionError, PromptOptions
from deepseek_serving.text.prompts import Prompt
from deepseek_serving.text.template import Templates
from deepseek_serving.text.template_conventions import Conventions
from deepseek_serving.text.template_environment import TemplateError
from deepseek_serving.text.thinking import END_THINK, THINK

# what is not text of a client in a message
OURS = frozenset(("role", "type"))
# transformers tells by the space behind it whether the template has cut white space
END = f"{END_OF_TEXT} "


class Renderer:
    """Renders conversations by the templates of a checkpoint."""

    def __init__(
        self,
        templates: Templates,
        client: ClientText,
        specials: Mapping[str, str],
        *,
        thinks: bool,
    ) -> None:
        """`specials` are the tokenizer's, by their names in templates."""
        self._templates = templates
        self._client = client
        self._specials = specials
        self._thinks = thinks
        default = Conventions.of(templates.default, specials)
        same = templates.tool_use is templates.default
        tool_use = default if same else Conventions.of(templates.tool_use, specials)
        self._conventions = {False: default, True: tool_use}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        options: PromptOptions,
    ) -> Prompt:
        """Raises TemplateError or OptionError."""
        template = self._templates.chosen(tools=bool(tools))
        variables = thinking.variables(template.variables, options, thinks=self._thinks)
        if options.documents and "documents" not in template.variables:
            raise OptionError(
                "documents", "The chat template of this model has no documents; ask without them."
            )
        conformed = self._conventions[bool(tools)].conform(messages)
        final = _continued(conformed) if options.continues else None
        try:
            given = {
                "tools": list(tools) if tools else None,
                "documents": list(options.documents) if options.documents else None,
                **variables,
            }
            by_client = self._client.mark(given)
            turns = [self._message(message) for message in conformed]
            if final is not None:
                turns[-1]["content"] = self._begun(conformed[-1]["content"])
            marked = template.render(
                marked=turns != conformed or by_client != given,
                messages=turns,
                add_generation_prompt=options.begins_reply and not options.continues,
                **by_client,
                **self._specials,
            )
        except RecursionError as error:
            raise TemplateError("the messages are nested too deeply for a template") from error
        if final is None:
            in_thoughts = marked.rstrip().endswith(THINK)
        else:
            marked, in_thoughts = self._open(marked, final)
        text = self._client.plain(marked)
        return Prompt(text, marked, in_thoughts=self._thinks and in_thoughts)

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        mark = self._client.mark
        return {name: value if name in OURS else mark(value) for name, value in message.items()}

    def _begun(self, content: Any) -> Any:
        """The content that is gone on with; marks of thoughts that it begins with are the model's.

        What stands there is the reply's own beginning, so nobody's turn is forged by it.
        """
        mark = self._client.mark
        if not isinstance(content, str) or not content.lstrip().startswith(THINK):
            return mark(content)
        before, begin, thoughts = content.partition(THINK)
        thoughts, end, rest = thoughts.partition(END_THINK)
        return before + begin + mark(thoughts) + end + mark(rest)

    def _open(self, marked: str, final: str) -> tuple[str, bool]:
        """The rendering up to the end of the final message, and whether that is within thoughts."""
        text = self._client.plain(marked)
        place = text.rfind(END_OF_TEXT)
        if place < 0 or final.strip() not in text:
            raise TemplateError(
                "the chat template leaves out some of the final message, so it cannot be continued"
            )
        end = place if text.startswith(END, place) else len(text[:place].rstrip())
        begin = max(0, end - len(final) - len(THINK) - 2)
        turn = text[begin:end]
        return marked[:end], turn.rfind(THINK) > turn.rfind(END_THINK)


def _continued(messages: list[dict[str, Any]]) -> str:
    """The text that is gone on with; where it ends is marked."""
    last = messages[-1]
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + END
        return content
    for number, part in reversed(list(enumerate(content or ()))):
        if isinstance(part.get("text"), str):
            parts = list(content or ())
            parts[number] = {**part, "text": part["text"] + END}
            last["content"] = parts
            return str(part["text"])
    raise TemplateError("the final message has no text that could be continued")
