"""All answers to one request, while they are made and read to their ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_serving.backends.answer import Chunk, Generation
from deepseek_serving.backends.errors import GenerationFailedError
from deepseek_serving.backends.local import Service
from deepseek_serving.generation.probabilities import Choice, PromptScores
from deepseek_serving.generation.reply import Piece
from deepseek_serving.generation.scheduler import Event
from deepseek_serving.http.auth import Caller


class Answers:
    """All answers to one request, and what they cost."""

    def __init__(
        self,
        service: Service,
        generations: Sequence[Generation],
        caller: Caller,
        reserved: int,
        model: str | None = None,
    ) -> None:
        """`model`: what the client calls it; without one, its own name."""
        self.service = service
        self.model = model or service.release.model
        self.generations = generations
        self._caller = caller
        self._reserved = reserved
        self._closed = False

    def close(self) -> None:
        """End what is not complete, and settle the key's account; once."""
        if not self._closed:
            self._closed = True
            for generation in self.generations:
                generation.close()
            self._caller.settle(self._reserved, self._prompt + self._completion)

    def abandon(self) -> None:
        """End the answers for their readers: no client waits for them."""
        for generation in self.generations:
            generation.deliver(Event(finish="cancelled"))

    @property
    def _prompt(self) -> int:
        """A prompt that is answered several times counts once."""
        return sum({g.request_number: g.prompt_tokens for g in self.generations}.values())

    @property
    def _completion(self) -> int:
        return sum(g.completion_tokens for g in self.generations)

    def usage(self) -> dict[str, Any]:
        cached = {g.request_number: g.cached_tokens for g in self.generations}
        prompt, completion = self._prompt, self._completion
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
            "completion_tokens_details": {
                "reasoning_tokens": sum(g.reasoning_tokens for g in self.generations)
            },
        }

    async def merged(self) -> AsyncIterator[tuple[int, list[Chunk] | None]]:
        """Chunks of all answers as they come, with their indices; None at the end of each."""
        if len(self.generations) == 1:
            async for chunks in self.generations[0].chunks():
                yield 0, chunks
            yield 0, None
            return
        queue: asyncio.Queue[tuple[int, list[Chunk] | GenerationFailedError | None]]
        queue = asyncio.Queue()

        async def read(index: int, generation: Generation) -> None:
            try:
                async for chunks in generation.chunks():
                    queue.put_nowait((index, chunks))
            except GenerationFailedError as error:
                queue.put_nowait((index, error))
            else:
                queue.put_nowait((index, None))

        readers = [asyncio.ensure_future(read(i, g)) for i, g in enumerate(self.generations)]
        try:
            left = len(readers)
            while left:
                index, item = await queue.get()
                if isinstance(item, GenerationFailedError):
                    raise item
                left -= item is None
                yield index, item
        finally:
            for reader in readers:
                reader.cancel()


@dataclass
class CompletedAnswer:
    """One answer, read to its end."""

    piece: Piece = field(default_factory=Piece)
    tokens: list[Choice] = field(default_factory=list)
    # the token that ended it, if one did, and what the prompt's tokens scored
    end: tuple[Choice, ...] = ()
    scores: PromptScores | None = None

    @classmethod
    async def read(cls, generation: Generation) -> CompletedAnswer:
        whole = cls()
        pieces = []
        async for chunks in generation.chunks():
            for chunk in chunks:
                pieces.append(chunk.piece)
                whole.tokens.extend(chunk.tokens)
                whole.end += chunk.end
                whole.scores = chunk.scores if whole.scores is None else whole.scores
        whole.piece = Piece.whole(pieces)
        return whole


async def read_all(generations: Sequence[Generation]) -> list[CompletedAnswer]:
    """Every answer, read to its end."""
    # their events wait in queues, so one after the other misses nothing
    return [await CompletedAnswer.read(generation) for generation in generations]
