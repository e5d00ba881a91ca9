"""A model that says what it is told, served through the whole API.

The shipped model has learned neither thoughts nor calls. All but the engine is real: tokenizer,
chat template, scheduler, grammars, sockets, client.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openai
from support import MODEL, VERSION, serve_app
from tokenizers import AddedToken, Tokenizer

from deepseek_serving.backends.local import Service
from deepseek_serving.generation.scheduler import Limits, Scheduler
from deepseek_serving.http.app import create_app
from deepseek_serving.runtime import Candidates
from deepseek_serving.text.tokenizer import ChatTokenizer
from deepseek_serving.trust.release import Release

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}"
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
)
HERMES = "{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS + "<|im_start|>assistant\n"
LLAMA = (
    '{# ipython #}{% if tools %}{{ tools | tojson }}{{ \'{"name": x, "parameters": y}\' }}'
    "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)
THINKING = TURNS + "<|im_start|>assistant\n<think>\n"


class Parrot:
    """Says the same in every slot."""

    slots, max_len = 2, 2000

    def __init__(self, said: Sequence[int], vocabulary: int) -> None:
        self._said = said
        self._rows = np.zeros((self.slots, vocabulary), dtype=np.float32)
        self._begins = [0] * self.slots

    def _answer(self, places: Sequence[tuple[int, int]]) -> Candidates:
        """`places`: of each row, which slot it is and how long its sequence."""
        self._rows[:] = 0
        said = []
        for row, (slot, length) in enumerate(places):
            place = min(max(0, length - self._begins[slot]), len(self._said) - 1)
            said.append(self._said[place])
            self._rows[row, said[-1]] = 50
        values = np.full((len(places), 1), 50, dtype=np.float32)
        return Candidates(values, np.array(said, dtype=np.int64)[:, None])

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Candidates:
        self._begins[slot] = start + len(tokens)
        return self._answer([(slot, start + len(tokens))])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Candidates:
        return self._answer([(slot, length + 1) for slot, length in enumerate(lengths)])

    def logits(self) -> npt.NDArray[np.float32]:
        return self._rows

    def reset(self) -> None:
        self._begins = [0] * self.slots

    def clear(self, slot: int) -> None:
        self._begins[slot] = 0


@contextmanager
def serve_parrot(
    graph: Path, folder: Path, template: str, said: str, marks: Sequence[str] = ()
) -> Iterator[openai.OpenAI]:
    """Serve a model with that template, which says that; the directory is made for its files."""
    folder.mkdir()
    for path in graph.glob("*.json"):
        shutil.copy(path, folder)
    record = json.loads((folder / "export.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    record["vocabulary"] = tokenizer.get_vocab_size()
    (folder / "export.json").write_text(json.dumps(record))
    (folder / "chat_template.jinja").write_text(template)
    tokens = [*tokenizer.encode(said).ids, 2]
    scheduler = Scheduler(Parrot(tokens, record["vocabulary"]), Limits())
    release = Release(MODEL, VERSION, "0" * 64, folder)
    app = create_app(Service(release, scheduler, ChatTokenizer(folder)))
    scheduler.start()
    with (
        serve_app(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as sdk,
    ):
        yield sdk
