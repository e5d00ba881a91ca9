"""Requests of the OpenAI API: what is supported, and a clear no to what is not."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deepseek_serving.service import Options


def _only(*accepted: object) -> AfterValidator:
    """For a parameter that is accepted only at values that ask for nothing."""

    def check(value: object) -> object:
        if value is not None and value not in accepted:
            raise ValueError("is not supported by this service")
        return value

    return AfterValidator(check)


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Unknown fields are ignored: clients send an assistant's message back with all its fields."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    tool_calls: Annotated[Any, _only([])] = None

    def plain(self) -> dict[str, str]:
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    include_usage: bool = False


StopString = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # no effect on the answer
    user: str | None = None
    metadata: Any = None
    store: bool | None = None

    # would change the answer if it were heeded
    n: Annotated[Any, _only(1)] = None
    frequency_penalty: Annotated[Any, _only(0)] = None
    presence_penalty: Annotated[Any, _only(0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    logprobs: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only(0)] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    functions: Annotated[Any, _only([])] = None
    modalities: Annotated[Any, _only(["text"])] = None

    def options(self) -> Options:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Options(
            temperature=self.temperature,
            top_p=self.top_p,
            # numpy wants no negative seeds
            seed=None if self.seed is None else self.seed % 2**64,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=stop,
        )
