"""API keys: made once, kept as hashes, read again when their file changes.

A key's secret has 256 random bits, so that plain SHA-256 is enough at rest: there is no list of
likely secrets to try, which is what slow hashes such as scrypt are for, and a slow hash would let
anybody who sends wrong keys keep the service busy.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from deepseek_serving.errors import ServingError
from deepseek_serving.policy.catalogue import ModelName

logger = logging.getLogger(__name__)

Scope = Literal["chat", "completions", "embeddings", "models"]
SCOPES: tuple[Scope, ...] = ("chat", "completions", "embeddings", "models")
# what a client sends: a name to find the key by, and the secret
FORM = re.compile(r"dsk-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")


class KeyFileError(ServingError):
    """The file of keys cannot be used."""


class KeysUnavailableError(ServingError):
    """Nobody can be told from anybody else, since the file has been broken for too long."""


class Key(BaseModel):
    """A key as the file has it; nothing in it lets anybody in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = SCOPES
    # None: all that the site has
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=64)] | None = None
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(timezone.utc)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # `schema` is a method of pydantic's models
    version: Literal[1] = Field(alias="schema")
    keys: list[Key]


def parse(text: str) -> dict[str, Key]:
    """Keys by their ids. Raises KeyFileError, which repeats nothing of what the file holds."""
    try:
        keys = _File.model_validate_json(text).keys
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise KeyFileError(f"{where}: {first['msg']}") from None
    found = {key.id: key for key in keys}
    if len(found) < len(keys):
        raise KeyFileError("two keys have the same id")
    return found


def read(path: Path) -> dict[str, Key]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(text)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from error


def _write(path: Path, keys: Collection[Key]) -> None:
    """Replace the file as a whole; its mode and owner stay."""
    value = {"schema": 1, "keys": [_as_json(key) for key in keys]}
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
            if path.exists():
                kept = path.stat()
                os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
                os.fchmod(file.fileno(), kept.st_mode & 0o777)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _as_json(key: Key) -> dict[str, Any]:
    """A key for all models as services of before read it, too."""
    return key.model_dump(mode="json", exclude={"models"} if key.models is None else None)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[dict[str, Key]]:
    """The keys of a file, while nobody else changes it."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeyFileError(f"{path.parent}: cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield read(path) if path.exists() else {}
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def add(
    path: Path,
    name: str,
    *,
    scopes: Sequence[Scope] = SCOPES,
    models: Sequence[str] | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    expires: datetime | None = None,
) -> str:
    """Add a key to the file; returns what the client sends, which is kept nowhere."""
    with _locked(path) as keys:
        secret = secrets.token_urlsafe(32)
        try:
            key = Key(
                id=secrets.token_hex(6),
                name=name,
                sha256=_hash(secret),
                scopes=tuple(scopes),
                models=None if models is None else tuple(models),
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                created=datetime.now(timezone.utc).replace(microsecond=0),
                expires=expires,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise KeyFileError(f"{first['loc'][0]}: {first['msg']}") from None
        _write(path, [*keys.values(), key])
    return f"dsk-{key.id}-{secret}"


def revoke(path: Path, identifier: str) -> Key:
    """Take a key out of the file; running services refuse it when they next look."""
    with _locked(path) as keys:
        if identifier not in keys:
            raise KeyFileError(f"{path}: has no key {identifier!r}; deepseek-key list names them")
        revoked = keys.pop(identifier)
        _write(path, keys.values())
    return revoked


class KeyRing:
    """The keys of a file, swapped as a whole when it changes.

    A file that is gone lets nobody in: that is how a site takes all keys back. One that is broken
    leaves the keys of before in force, for `grace_seconds`; then nobody is let in until it is
    whole again.
    """

    def __init__(
        self,
        path: Path,
        poll_seconds: float = 2,
        exempt_clients: Collection[str] = (),
        grace_seconds: float = 3600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`exempt_clients` are names in client certificates; who has one of them needs no key.

        Raises KeyFileError if the file cannot be used at the start.
        """
        self.exempt_clients = frozenset(exempt_clients)
        self._path = path
        self._poll = poll_seconds
        self._grace = grace_seconds
        self._clock = clock
        self._signature = self._look()
        self._keys: Mapping[str, Key] = read(path)
        self._looked = clock()
        self._broken_since: float | None = None
        self._refusing = False

    def _look(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another; None if it is gone. Raises OSError."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def reload(self) -> None:
        """Read the file again, whether it looks changed or not."""
        try:
            self._signature = self._look()
            keys = {} if self._signature is None else read(self._path)
        except (KeyFileError, OSError) as error:
            self._note_broken(error)
            return
        self._keys = keys
        self._broken_since, self._refusing = None, False
        if self._signature is None:
            logger.error("%s is gone: no API key is in force", self._path)
        else:
            logger.info("%d API keys in force", len(keys))

    def _note_broken(self, error: Exception) -> None:
        if self._broken_since is None:
            self._broken_since = self._clock()
            logger.error(
                "the keys of before stay in force for %g minutes: %s", self._grace / 60, error
            )

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked >= self._poll:
            self._looked = now
            # what is broken may get whole without looking changed, as a disk that was away
            if self._broken_since is not None or self._changed():
                self.reload()
        if self.seconds_broken > self._grace and not self._refusing:
            self._refusing = True
            logger.error("%s stayed broken: no API key is in force until it is whole", self._path)

    def _changed(self) -> bool:
        try:
            return self._look() != self._signature
        except OSError:
            return True

    @property
    def seconds_broken(self) -> float:
        """For how long the file has not been usable; 0 while it is."""
        return 0.0 if self._broken_since is None else self._clock() - self._broken_since

    @property
    def in_force(self) -> int:
        """How many keys let somebody in."""
        self._refresh()
        return 0 if self._refusing else sum(not key.expired for key in self._keys.values())

    def find(self, sent: str) -> Key | None:
        """The key in force that was sent, if it is one.

        Raises KeysUnavailableError if the file has been broken for longer than the time of grace.
        """
        self._refresh()
        if self._refusing:
            raise KeysUnavailableError(f"{self._path} cannot be used")
        parts = FORM.fullmatch(sent)
        key = self._keys.get(parts[1]) if parts else None
        if parts is None or key is None or key.expired:
            return None
        return key if hmac.compare_digest(_hash(parts[2]), key.sha256) else None
