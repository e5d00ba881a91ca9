"""The one list of what `code` of an error may be; docs/reference/api.md has it, too.

Status and type of what the gateway says itself are in its role; tests compare role, page and this.
"""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "client_not_allowed",
    "context_length_exceeded",
    "duplicate_header",
    "engine_unavailable",
    "generation_failed",
    "insufficient_scope",
    "invalid_api_key",
    "invalid_header",
    "invalid_json",
    "invalid_json_schema",
    "invalid_value",
    "keys_unavailable",
    "method_not_allowed",
    "model_not_found",
    "no_worker_ready",
    "not_found",
    "not_taken",
    "queue_full",
    "rate_limit_exceeded",
    "request_exceeds_quota",
    "request_timeout",
    "request_too_complex",
    "request_too_large",
    "request_too_slow",
    "schema_queue_full",
    "unknown_parameter",
    "unsupported_value",
]
# what the gateway alone says
GatewayCode = Literal[
    "address_rate_limit",
    "certificate_required",
    "forbidden",
    "gateway_failed",
    "invalid_request",
    "key_rate_limit",
    "not_implemented",
    "origin_not_allowed",
    "worker_breakage_limit",
    "worker_broke_off",
    "worker_stopping",
    "worker_timeout",
    "wrong_host",
]
