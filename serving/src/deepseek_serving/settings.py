"""The settings file (TOML): read, checked, and every error named by its place."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from deepseek_serving.artifacts.names import ArtifactError, check_name
from deepseek_serving.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
LOCAL_URL = re.compile(r"http://(127\.0\.0\.1|\[::1\]):[1-9][0-9]{0,4}|unix:/[^\s?#]+")
# what an upstream's model does with texts
Task = Literal["generate", "embed", "score"]
# Requests that may wait, in front of an engine or an upstream.
DEFAULT_QUEUE = 64


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _name(value: str) -> str:
    try:
        return check_name(value, "the name")
    except ArtifactError as error:
        raise ValueError(str(error)) from error


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, AfterValidator(_name)]
# as others name models, with a slash or a colon
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the service listens, and whose client certificates it accepts."""

    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    tls_certificate: AbsolutePath
    tls_key: AbsolutePath
    tls_client_ca: AbsolutePath
    tls_client_crl: AbsolutePath | None = Field(
        default=None, description="revocation lists of every authority in the chain"
    )
    allowed_clients: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    connections: int = Field(default=1024, ge=1, description="more are not taken")
    drain_seconds: int = Field(default=30, ge=0)
    log_format: Literal["text", "json"] = "text"


class ModelSettings(_Section):
    """Which release is served, in which precision, and the key it must be signed with."""

    store: AbsolutePath
    name: Name
    version: Name
    public_key: AbsolutePath
    precision: Name = "fp32"
    aliases: list[Alias] = Field(
        default=[], max_length=64, description="what clients may call the model besides its name"
    )
    catalogue: AbsolutePath | None = Field(
        default=None, description="the models of the whole site, which the service says that it has"
    )


class EngineSettings(_Section):
    """How the model is run; slots and max_len default to what it was exported with."""

    kind: Literal["onnxruntime", "upstream"] = "onnxruntime"
    provider: Literal["cpu", "cuda"] = Field(
        default="cpu", description="what runs a release's graph; cuda: an NVIDIA GPU, fp16 or bf16"
    )
    threads: int = Field(default=0, ge=0, description="0: one per core")
    slots: int | None = Field(default=None, ge=1, le=1024)
    max_len: int | None = Field(default=None, ge=2)
    prefill_chunk: int = Field(default=128, ge=1)
    queue: int = Field(default=DEFAULT_QUEUE, ge=0)
    key: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the engine in the store that runs the graph; without it the graph itself",
    )
    queue_per_key: int | None = Field(default=None, ge=0, description="None: as long as queue")
    step_tokens: int | None = Field(
        default=None, ge=1, description="prompt and new tokens of a step; None: prefill_chunk"
    )
    idle_seconds: float = Field(default=60, ge=0, allow_inf_nan=False)
    text_is_data: Literal["chat", "always", "never"] = Field(
        default="chat",
        description="where control tokens that a client writes are text: in conversations, in "
        "prompts of /v1/completions too, or nowhere",
    )
    stuck_seconds: float = Field(
        default=120, gt=0, allow_inf_nan=False, description="a step that takes longer hangs"
    )
    request_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class UpstreamSettings(_Section):
    """The upstream, where `engine.kind` is upstream: on this host only."""

    url: str = Field(description="http://127.0.0.1:PORT, http://[::1]:PORT or unix:/PATH")
    model: str = Field(min_length=1, description="the name that the server knows the model by")
    task: Task = Field(
        default="generate",
        description="what its model does: answer, make vectors of texts, or score pairs of them",
    )
    health_path: str = Field(default="/health", pattern=r"^/[A-Za-z0-9/_.-]*$")
    concurrency: int = Field(default=256, ge=1, description="requests in work together")
    queue: int = Field(default=DEFAULT_QUEUE, ge=0)
    queue_per_key: int | None = Field(default=None, ge=0, description="None: as long as queue")
    request_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    poll_seconds: float = Field(default=2, gt=0, allow_inf_nan=False)
    start_seconds: float = Field(default=1800, gt=0, allow_inf_nan=False)
    silent_seconds: float = Field(
        default=300,
        gt=0,
        allow_inf_nan=False,
        description="an answer of which nothing comes for so long has failed",
    )
    doubt_seconds: float = Field(
        default=10,
        gt=0,
        allow_inf_nan=False,
        description="when nothing comes for so long to any request, the server is asked a question",
    )
    question_seconds: float = Field(
        default=60, gt=0, allow_inf_nan=False, description="the time that it has for the answer"
    )
    key_file: AbsolutePath | None = Field(
        default=None, description="what the server asks of its clients, as a bearer token"
    )
    allow_without_key: bool = Field(
        default=False, description="even if every user of this host can ask it"
    )
    media: list[Literal["image", "audio", "video"]] = Field(
        default=[], description="what messages may hold beside text, where its model takes it"
    )

    @field_validator("url")
    @classmethod
    def is_local(cls, url: str) -> str:
        if not LOCAL_URL.fullmatch(url):
            raise ValueError(
                "must be http://127.0.0.1:PORT, http://[::1]:PORT or unix:/PATH: between hosts "
                "nothing goes unencrypted"
            )
        return url

    @property
    def address(self) -> tuple[str, str | None]:
        """The base of its URLs, and the path of its socket if it has one."""
        if self.url.startswith("unix:"):
            return "http://localhost", self.url.removeprefix("unix:")
        return self.url, None


class KeySettings(_Section):
    """Who may use the service, beside having an allowed client certificate."""

    file: AbsolutePath
    poll_seconds: float = Field(default=2, gt=0, allow_inf_nan=False)
    exempt_clients: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="client certificates that need no key, as this host's own"
    )
    grace_seconds: float = Field(
        default=3600,
        ge=0,
        allow_inf_nan=False,
        description="for how long the keys of before stay in force while the file is broken",
    )


class EncoderSettings(_Section):
    """An encoder's graph in the store, `<store>/graph/<name>/<digest>`, and how it is run."""

    graph: AbsolutePath
    threads: int = Field(default=0, ge=0, description="0: one per core")


class Settings(_Section):
    """The whole settings file."""

    server: ServerSettings
    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    keys: KeySettings | None = None
    embeddings: EncoderSettings | None = None
    rerank: EncoderSettings | None = None
    upstream: UpstreamSettings | None = None

    @model_validator(mode="after")
    def names_its_engine(self) -> Settings:
        if (self.engine.kind == "upstream") != (self.upstream is not None):
            raise ValueError('engine.kind = "upstream" and the section [upstream] come together')
        return self

    @model_validator(mode="after")
    def has_one_encoder_of_a_kind(self) -> Settings:
        task = "generate" if self.upstream is None else self.upstream.task
        for name, section, taken in (
            ("embeddings", self.embeddings, task == "embed"),
            ("rerank", self.rerank, task == "score"),
        ):
            if section is not None and taken:
                raise ValueError(f"[{name}] and upstream.task = {task!r} answer the same requests")
        return self


def _expand(value: object, variables: Mapping[str, str], where: str) -> object:
    """Replace ${NAME} in every string; systemd sets CREDENTIALS_DIRECTORY for the unit."""
    if isinstance(value, dict):
        return {
            key: _expand(item, variables, f"{where}.{key}" if where else key)
            for key, item in value.items()
        }
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            raise SettingsError(f"{where}: the environment variable {name} is not set")
        return variables[name]

    return VARIABLE.sub(replace, value)


def _message(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown setting"
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"{where}: {message[0].lower()}{message[1:]} (it is {error['input']!r})"


def parse(text: str, variables: Mapping[str, str]) -> Settings:
    """Settings from TOML text; SettingsError lists everything that is wrong with it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"not TOML: {error}") from error
    try:
        return Settings.model_validate(_expand(document, variables, ""))
    except ValidationError as error:
        raise SettingsError("; ".join(_message(e) for e in error.errors())) from error


def read(path: Path, variables: Mapping[str, str] | None = None) -> Settings:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(text, os.environ if variables is None else variables)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
