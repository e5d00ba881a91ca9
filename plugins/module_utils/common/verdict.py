# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict of a playbook that asks hosts questions: what is wrong, and what was never asked.

A question that was not asked counts as a fault, so that neither --limit nor --tags, an unreachable host or an empty group gives a green
result that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

# What Ansible says in place of the words of a task's own.
_LOOPED = "One or more items failed"
_GENERIC = ("non-zero return code", "MODULE FAILURE")
_PREFIXES = ("Action failed: ", "Task failed: ")
_LONGEST = 2000


@dataclass(frozen=True)
class Verdict:
    """What is ``wrong``, one line each; the hosts that were ``asked``, and those of the inventory that were ``left_out``."""

    wrong: tuple[str, ...]
    asked: tuple[str, ...]
    left_out: tuple[str, ...]


def verdict_of(
    facts: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    questions: Mapping[str, Sequence[str]],
    needed: Sequence[str] = (),
    dropped: Set[str] = frozenset(),
) -> Verdict:
    """Judge the hosts of a run. *facts* has for each of them what it was ``asked``, its ``problems``, and its ``answer`` to the first contact.

    *questions* are what the hosts of each group must have been asked; *needed* are the groups that must have hosts. What is known of
    hosts that ``dropped`` out of the run may be old.
    """
    concerned = {name for group in questions for name in groups.get(group, ())}
    hosts = [name for name in facts if name in concerned]
    wrong = [
        f"group {group}: it has no host, so nothing of it was asked. Add its hosts to the inventory."
        for group in needed
        if not groups.get(group)
    ]
    if not hosts:
        wrong.append(
            f"Nothing was asked: no host of the run is in group {', '.join(questions)}. Run this again without --limit."
        )
    for name in hosts:
        found = list(_host_problems(name, facts[name], groups, questions))
        if name in dropped and not found:
            found = [f"{name}: it dropped out of the run. See what is said of it above."]
        wrong += found
    return Verdict(tuple(wrong), tuple(hosts), tuple(sorted(concerned - set(hosts))))


def _host_problems(
    name: str,
    facts: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    questions: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    yield from facts.get("problems") or ()
    answer = facts.get("answer") or {}
    if answer.get("unreachable") or answer.get("failed"):
        yield f"{name}: it cannot be used: {'; '.join(failure_words(answer))}"
        return
    wanted = [
        question
        for group in questions
        if name in groups.get(group, ())
        for question in questions[group]
    ]
    missing = [
        question for question in dict.fromkeys(wanted) if question not in (facts.get("asked") or ())
    ]
    if missing:
        yield (
            f"{name}: it was not asked about {', '.join(missing)}: it dropped out of the run, or --limit, --tags, --skip-tags or "
            "--start-at-task left that out. Run this again without them, and see what is said of the host above."
        )


def failure_words(result: Any) -> list[str]:
    """The words of a failed task, each once. A looped task's are those of its items, which Ansible's own summary does not have."""
    if not isinstance(result, Mapping):
        return [str(result) or "it failed"]
    modules = result.get("failed_modules")
    items = list(modules.values()) if isinstance(modules, Mapping) else result.get("results")
    if isinstance(items, Sequence) and not isinstance(items, str):
        found = [
            text
            for item in items
            if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable"))
            for text in failure_words(item)
        ]
        if found:
            return list(dict.fromkeys(found))
    return list(dict.fromkeys(_own_words(result))) or ["it failed"]


def _own_words(result: Mapping[str, Any]) -> Iterator[str]:
    said = result.get("msg")
    for text in said if isinstance(said, (list, tuple)) else [said or ""]:
        words = _cut(str(text))
        if not words or words.startswith(_LOOPED):
            continue
        if words.startswith(_GENERIC):
            yield _command_words(result, words)
        else:
            url = str(result.get("url") or "")
            yield f"{url}: {words}" if url and url not in words else words


def _command_words(result: Mapping[str, Any], words: str) -> str:
    """What a program said when it ended, where Ansible has a code only."""
    command = result.get("cmd") or ""
    name = " ".join(map(str, command)) if isinstance(command, (list, tuple)) else str(command)
    streams = ("stderr", "stdout", "module_stderr", "module_stdout", "exception")
    lines = next(
        (found for stream in streams if (found := str(result.get(stream) or "").strip())), ""
    )
    last = lines.splitlines()[-1].strip() if lines else words
    ended = f"{name}: ended with {result.get('rc')}: " if name else ""
    return _cut(f"{ended}{last}")


def _cut(text: str) -> str:
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text.strip()[:_LONGEST]
