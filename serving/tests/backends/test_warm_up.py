"""Readiness needs an answer, and not a template that takes every conversation."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from parrot import Parrot

from deepseek_serving.backends.local import Service, warm_up
from deepseek_serving.generation.request import Options
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.text.tokenizer import ChatTokenizer, TextError
from deepseek_serving.trust.release import Release

SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    "{{ messages[-1].content }}"
)


def service_of(graph: Path, folder: Path, template: str) -> Service:
    folder.mkdir()
    for path in graph.glob("*.json"):
        shutil.copy(path, folder)
    (folder / "chat_template.jinja").write_text(template)
    vocabulary = json.loads((folder / "export.json").read_text())["vocabulary"]
    scheduler = Scheduler(Parrot([5, 6, 7], vocabulary), Limits())
    return Service(Release("m", "1", "0" * 64, folder), scheduler, ChatTokenizer(folder))


@pytest.mark.parametrize(
    "template",
    [
        SYSTEM_FIRST,
        "{{ raise_exception('never') }}",
        "{# nothing #}",
        "{{ messages[7].content.upper() }}",
        "{{ 'word ' * 3000 }}",
        "{{ messages[0].content }}",
    ],
)
def test_a_service_gets_ready_whatever_its_template_says_to_the_first_question(
    graph: Path, tmp_path: Path, template: str
) -> None:
    service = service_of(graph, tmp_path / "model", template)
    service.scheduler.start()
    try:
        asyncio.run(warm_up(service))
        assert service.healthy
    finally:
        service.scheduler.stop()


def test_a_conversation_of_which_nothing_is_rendered_is_refused(
    graph: Path, tmp_path: Path
) -> None:
    service = service_of(graph, tmp_path / "model", "{# nothing #}")
    with pytest.raises(TextError, match="the prompt is empty"):
        service.requests.chat([{"role": "user", "content": "?"}], Options())
