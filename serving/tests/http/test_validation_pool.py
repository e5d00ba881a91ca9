"""Large bodies are judged in other processes, which may fail, hang and be told to end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import pickle
import signal
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import pytest
from readings import Where, Wicked
from support import MODEL
from wicked_bodies import ASKED, NAMED

from deepseek_serving.http import validation_pool as judges
from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.errors import ApiError
from deepseek_serving.http.offload import OffLoop
from deepseek_serving.http.validation import ReadChat, Reading
from deepseek_serving.http.validation_pool import ValidationPool, _answer
from deepseek_serving.http.validation_process import LENGTH_BYTES, PIECE

# nothing but the text
END = pickle.dumps(None)


@pytest.fixture
def _tests_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}{os.pathsep}{given}")


@pytest.mark.usefixtures("_tests_importable")
def test_a_judge_that_fails_refuses_one_body_and_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what ends the one that spins is its processor time, on a busy machine, too
    monkeypatch.setattr(judges, "JUDGE_SECONDS", 600.0)

    async def judged() -> list[object]:
        pool = ValidationPool(count=1)
        found: list[object] = []
        try:
            wicked = [Wicked(does) for does in ("spin", "hoard", "exit", "kill")]
            readings: list[Reading] = [Where(), *wicked, Where()]
            for reading in readings:
                try:
                    found.append(await pool.judge(reading, [b"a" * 9, b"b"]))
                except RefusedError as error:
                    found.append(error.code)
        finally:
            await pool.close()
        return found

    first, *refusals, last = asyncio.run(judged())
    assert refusals == ["request_too_complex"] * 4
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert first[1] == last[1] == 10
    assert os.getpid() not in (first[0], last[0])


@pytest.mark.usefixtures("_tests_importable")
def test_a_judge_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGE_SECONDS", 0.3)

    async def judged() -> int:
        pool = ValidationPool(("sleep", "1000"), count=1)
        with pytest.raises(ApiError) as caught:
            await pool.judge(Where(), [b"a" * 2**20])
        await pool.close()
        return caught.value.status

    assert asyncio.run(judged()) == 429


def test_a_judge_that_was_only_not_kept_refuses_nobody(tmp_path: Path) -> None:
    """A body may come just as the process of the last one ends."""
    flag = tmp_path / "ended"
    script = (
        f"import os, sys\nif not os.path.exists({str(flag)!r}):\n    open({str(flag)!r}, 'w')\n"
        "    sys.exit(0)\nfrom deepseek_serving.http.validation_process import main\nmain()"
    )

    async def judged() -> Any:
        pool = ValidationPool((sys.executable, "-c", script), count=1)
        try:
            return await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
        finally:
            await pool.close()

    assert asyncio.run(judged()).model == MODEL
    assert flag.exists()


def test_a_judge_that_is_told_to_end_goes_on_until_the_service_has() -> None:
    """Systemd tells every process of a unit to end at once, and requests are still answered."""

    async def judged() -> Any:
        pool = ValidationPool(count=1)
        try:
            await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
            process = pool._all[0]._process
            assert process is not None
            process.send_signal(signal.SIGTERM)
            await pool.judge(ReadChat(), [ASKED, b'"n":1}'])
            assert pool._all[0]._process is process
        finally:
            await pool.close()
        return process.returncode

    assert asyncio.run(judged()) == -signal.SIGKILL


def test_a_long_text_comes_back_as_it_was() -> None:
    text = "word \U0001f600\u4e2d" * PIECE

    async def judged() -> Any:
        pool = ValidationPool(count=1)
        body = json.dumps({"role": "user", "content": text}, ensure_ascii=False)
        try:
            return await pool.judge(ReadChat(), [NAMED, f'"messages":[{body}]}}'.encode()])
        finally:
            await pool.close()

    assert asyncio.run(judged()).messages[0]["content"] == text


class Frames:
    """What a process writes of one text, made as it is read."""

    def __init__(self, pieces: int) -> None:
        text = b"x" * PIECE
        frames = [pickle.dumps([pieces]), *[text] * pieces]
        self._parts = chain.from_iterable(
            (len(frame).to_bytes(LENGTH_BYTES, "big"), frame) for frame in [*frames, END]
        )

    async def readexactly(self, count: int) -> bytes:
        part = next(self._parts)
        assert len(part) == count
        return part


def test_a_long_text_grows_where_it_is() -> None:
    """To copy all of it at once would hold the event loop."""
    pieces = 64
    asyncio.run(_answer(cast(asyncio.StreamReader, Frames(pieces))))
    tracemalloc.start()
    try:
        assert asyncio.run(_answer(cast(asyncio.StreamReader, Frames(pieces)))) is None
        assert tracemalloc.get_traced_memory()[1] < (pieces + 16) * PIECE
    finally:
        tracemalloc.stop()


class Weak(list[bytes]):
    """One that can be referred to weakly."""


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_refusal_does_not_keep_the_body() -> None:
    async def refused() -> object:
        pool = ValidationPool(count=1)
        body = Weak([b"[]"])
        with contextlib.suppress(RefusedError):
            await pool.judge(ReadChat(), body)
        kept = weakref.ref(body)
        del body
        await pool.close()
        return kept()

    assert asyncio.run(refused()) is None


@pytest.mark.usefixtures("_no_collector")
def test_work_off_the_loop_that_fails_keeps_nothing() -> None:
    def fail(given: Weak) -> None:
        raise ValueError(len(given))

    async def failed() -> object:
        off_loop, given = OffLoop(), Weak()
        with contextlib.suppress(ValueError):
            await off_loop.run(functools.partial(fail, given))
        kept = weakref.ref(given)
        del given
        # the thread has it for a moment longer, and the loop what woke this task
        off_loop._pool.shutdown()
        await asyncio.sleep(0)
        return kept()

    assert asyncio.run(failed()) is None


def test_judges_are_there_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "BEGIN_SECONDS", 0)

    async def begun() -> list[bool]:
        pool = ValidationPool(("sleep", "1000"), count=2)
        pool.begin()
        assert pool._beginning is not None
        await pool._beginning
        started = [judge._process is not None for judge in pool._all]
        await pool.close()
        return started

    assert asyncio.run(begun()) == [True, True]


def test_judges_that_nobody_needed_need_not_begin() -> None:
    async def begun() -> list[bool]:
        pool = ValidationPool(("sleep", "1000"), count=2)
        pool.begin()
        await pool.close()
        return [judge._process is not None for judge in pool._all]

    assert asyncio.run(begun()) == [False, False]
