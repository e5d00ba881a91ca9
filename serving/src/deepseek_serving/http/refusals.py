"""What a request that cannot be begun is in OpenAI's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deepseek_serving.backends.errors import PromptTooLongError, UnsupportedError
from deepseek_serving.generation.grammar_cost import SchemaError
from deepseek_serving.generation.grammar_queue import TrialsBusyError, TrialsEndedError
from deepseek_serving.generation.scheduler import QueueFullError
from deepseek_serving.http.common import queue_full
from deepseek_serving.http.errors import ApiError
from deepseek_serving.text.template_environment import TemplateError
from deepseek_serving.text.tokenizer import TextError

REFUSED = (PromptTooLongError, SchemaError, UnsupportedError, TemplateError, TextError)


def refusal(error: Exception, param: str) -> ApiError:
    """What a job that cannot be begun is in OpenAI's terms."""
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), param=param, code="context_length_exceeded")
    if isinstance(error, SchemaError):
        message = f"What the answer must look like cannot be enforced: {error}"
        return ApiError(400, message, param=error.parameter, code="invalid_json_schema")
    if isinstance(error, UnsupportedError):
        return ApiError(400, str(error), param=error.parameter, code="unsupported_value")
    return ApiError(400, str(error), param=param, code="invalid_value")


@contextmanager
def refused_as(param: str) -> Iterator[None]:
    """Jobs are made within: those that cannot be are refused, for `param` if nothing is nearer."""
    try:
        yield
    except REFUSED as error:
        raise refusal(error, param) from error
    except QueueFullError as error:
        raise queue_full(error) from error
    except TrialsBusyError as error:
        raise ApiError(
            429,
            "Too many schemas are being compiled, or this key's have taken too long; try again "
            "later, or ask for a simpler schema.",
            kind="rate_limit_error",
            code="schema_queue_full",
            headers={"retry-after": "10"},
        ) from error
    except TrialsEndedError as error:
        raise ApiError(
            503,
            "The schema could not be compiled; try again.",
            kind="server_error",
            headers={"retry-after": "1"},
        ) from error
