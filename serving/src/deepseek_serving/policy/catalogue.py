"""The models of the whole site, of which this service has one; read again when it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepseek_serving.errors import ServingError

logger = logging.getLogger(__name__)

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]
LARGEST_BYTES = 1 << 20


class CatalogueError(ServingError):
    """The file of models cannot be used."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: ModelName
    aliases: tuple[ModelName, ...] = Field(default=(), max_length=64)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # `schema` is a method of pydantic's models
    version: Literal[1] = Field(alias="schema")
    models: list[_Model] = Field(max_length=1024)


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """The aliases of each model. Raises CatalogueError."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > LARGEST_BYTES:
        raise CatalogueError(f"{path}: is larger than {LARGEST_BYTES} bytes")
    try:
        models = _File.model_validate_json(text).models
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CatalogueError(f"{path}: {where}: {first['msg']}") from None
    return {model.id: model.aliases for model in models}


class Catalogue:
    """What the site has, by the file, and what this service has in any case.

    A file that is broken leaves what was before; without one there is what this service has.
    """

    def __init__(
        self,
        own: Mapping[str, Sequence[str]],
        path: Path | None = None,
        poll_seconds: float = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own` are the aliases of each model that this service has."""
        self._own = {model: tuple(aliases) for model, aliases in own.items()}
        self._path = path
        self._poll = poll_seconds
        self._clock = clock
        self._signature: tuple[int, int, int] | None = None
        # put together when the file changes, and not for each request
        self._models = self._with_own({})
        self._looked = clock()
        self.reload()

    def _with_own(self, site: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        others = {model: names for model, names in site.items() if model not in self._own}
        # it may answer for another model, whose names are not its own for that
        taken = {name for model, names in others.items() for name in (model, *names)}
        own = {
            model: tuple(name for name in names if name not in taken)
            for model, names in self._own.items()
        }
        return {**own, **others}

    def reload(self) -> None:
        """Read the file again if it looks changed."""
        if self._path is None:
            return
        try:
            found = self._path.stat()
            signature = found.st_mtime_ns, found.st_size, found.st_ino
            if signature != self._signature:
                # one message for each state that the file is in
                self._signature = signature
                self._models = self._with_own(read(self._path))
        except (CatalogueError, OSError) as error:
            logger.error("the models of before stay known: %s", error)

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """The aliases of each model, this service's own first."""
        now = self._clock()
        if self._path is not None and now - self._looked >= self._poll:
            self._looked = now
            self.reload()
        return self._models

    def names(self, allowed: Collection[str]) -> frozenset[str]:
        """What a client may say that may use these models: their names and aliases."""
        models = self.models
        return frozenset(allowed).union(*(models.get(model, ()) for model in allowed))
