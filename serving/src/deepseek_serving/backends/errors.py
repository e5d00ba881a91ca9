"""Why a request cannot be generated, or an answer was not completed."""

from __future__ import annotations

from collections.abc import Mapping


def too_long(max_len: object, found: str) -> str:
    """What clients are told of what is too long; libraries look for the first sentence.

    LiteLLM and others tell by it, as OpenAI has it, that a context was exceeded; LangChain by the
    words "prompt is too long".
    """
    return f"This model's maximum context length is {max_len} tokens. However, {found}"


class PromptTooLongError(ValueError):
    """The prompt leaves no room for an answer."""

    def __init__(self, tokens: int, max_len: int, *, whole: bool = True) -> None:
        """`whole`: the prompt was read to its end."""
        at_least = "" if whole else "at least "
        super().__init__(
            too_long(
                max_len,
                f"the prompt is too long: it has {at_least}{tokens} tokens and leaves no room for "
                "an answer. Shorten it.",
            )
        )


class UnsupportedError(ValueError):
    """This release cannot do what the parameter asks for."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class GenerationFailedError(Exception):
    """The engine failed, or the service stopped, before the answer was complete."""


class GenerationRefusedError(GenerationFailedError):
    """No token may follow: what the answer must look like is more than can be enforced."""


class GenerationFaultError(GenerationFailedError):
    """The engine could not answer this request; it goes on with others."""


class GenerationReturnedError(GenerationFailedError):
    """The service stops, and had not begun with the answer: another one can give it."""


class GenerationTimeoutError(GenerationFailedError):
    """The answer was not complete in the time that a request may take."""


FAILURES: Mapping[str, type[GenerationFailedError]] = {
    "timeout": GenerationTimeoutError,
    "refused": GenerationRefusedError,
    "failed": GenerationFaultError,
    "returned": GenerationReturnedError,
}
