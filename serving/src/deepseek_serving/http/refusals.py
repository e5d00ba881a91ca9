"""What a request that cannot be begun is in OpenAI's terms."""

from __future__ import annotations

from deepseek_serving.backends.errors import PromptTooLongError, UnsupportedError
from deepseek_serving.generation.grammar_cost import SchemaError
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
