"""One list of error codes: what the service says, and what docs/reference/api.md has of it."""

from __future__ import annotations

import re
from typing import get_args

import httpx
import pytest
from support import ROOT

from deepseek_serving.http.error_codes import ErrorCode

PAGE = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")


def test_the_page_has_every_code_and_no_other() -> None:
    table = PAGE.split("| status | `code` | when |")[1].split("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    assert {code for cell in cells for code in re.findall("`([a-z_]+)`", cell)} == set(
        get_args(ErrorCode)
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/nothing", 404, "not_found"),
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("GET", "/v1/models/some-body/a-model:tag", 404, "model_not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/tokenize", 405, "method_not_allowed"),
    ],
)
def test_the_framework_s_own_refusals_are_openai_s(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    reply = client.request(method, path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert ("allow" in reply.headers) == (status == 405)
