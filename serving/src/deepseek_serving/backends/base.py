"""What every backend offers to the HTTP layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deepseek_serving.metrics import Metrics
from deepseek_serving.trust.release import Release


class Backend(Protocol):
    """A verified release, and whether requests for it are accepted."""

    release: Release
    metrics: Metrics
    created: int
    # what clients may call the release's model besides its own name
    aliases: Sequence[str]

    @property
    def max_len(self) -> int | None:
        """Tokens of the longest sequence, where that is known."""

    @property
    def healthy(self) -> bool:
        """Whether requests are accepted."""

    @property
    def failed(self) -> bool:
        """Whether only another process can help, and this one can still end by itself."""

    @property
    def stuck(self) -> bool:
        """Whether only another process can help, and somebody has to end this one."""

    def drain(self) -> None:
        """Take no more requests; those that are here go on."""

    async def begin(self) -> None:
        """Get ready; ServingError if that cannot be."""

    async def close(self) -> None:
        """End, once nothing is asked any more."""
