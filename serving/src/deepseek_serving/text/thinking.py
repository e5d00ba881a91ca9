"""Which variables tell a chat template whether, and how much, the model is to think."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from deepseek_serving.text.prompt_options import OptionError, PromptOptions

THINK, END_THINK = "<think>", "</think>"
# Qwen3's, and DeepSeek V3.1's: True and False
SWITCHES = frozenset(("enable_thinking", "thinking"))
EFFORT = "reasoning_effort"
NO_EFFORT = "none"


def variables(known: Set[str], options: PromptOptions, *, thinks: bool) -> dict[str, Any]:
    """What a template that knows these variables is told.

    `thinks`: the model has marks for thoughts. Raises OptionError for what would change the answer
    and cannot be done; what the model does anyway is taken.
    """
    told = dict(options.variables)
    for name in told:
        if name not in known:
            raise OptionError(
                f"chat_template_kwargs.{name}",
                f"The chat template of this model has no variable {name!r}.",
            )
    wanted, by = options.thinks, options.thinks_by
    if options.effort is not None:
        if EFFORT in known:
            told.setdefault(EFFORT, options.effort)
        if wanted is None and (known & SWITCHES or (EFFORT not in known and thinks)):
            wanted, by = _by_effort(options.effort, switched=bool(known & SWITCHES)), EFFORT
    if wanted is None:
        return told
    for name in known & SWITCHES:
        told.setdefault(name, wanted)
    if not known & SWITCHES and wanted != thinks:
        can = "always thinks, or decides by itself" if thinks else "does not think"
        raise OptionError(
            by, f"This model {can}, and its chat template has no switch for it; leave out {by!r}."
        )
    return told


def _by_effort(effort: str, *, switched: bool) -> bool | None:
    """None is as it is: how much a model thinks is no more than a wish where nothing is known."""
    if effort == NO_EFFORT:
        return False
    return True if switched else None
