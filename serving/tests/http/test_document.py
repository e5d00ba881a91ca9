"""The document tells the truth: what it admits is read, whatever the engine makes of it then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from document import is_listed
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings

from deepseek_serving.http.complaints import RefusedError
from deepseek_serving.http.openapi import publish
from deepseek_serving.http.schema.body import Body
from deepseek_serving.http.schema.embeddings import EmbeddingRequest
from deepseek_serving.http.schema.reranking import RerankRequest, ScoreRequest
from deepseek_serving.http.validation import ReadEmbedding, Reading, ReadRerank, ReadScore

# those that need an encoder, which the service of test_fuzz.py has not
ENDPOINTS: Mapping[str, tuple[type[Body], Reading]] = {
    "/v1/embeddings": (EmbeddingRequest, ReadEmbedding()),
    "/v1/rerank": (RerankRequest, ReadRerank()),
    "/v1/score": (ScoreRequest, ReadScore()),
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = FastAPI(openapi_url=None)
    for path, (schema, _reading) in ENDPOINTS.items():

        def answer(body: Any) -> None:
            del body

        answer.__annotations__["body"] = schema
        app.post(path)(answer)

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> str:
        return name

    models = dict.fromkeys(ENDPOINTS, ("encoder",))
    return publish(app, has_keys=True, models=models, own=("model", "alias", "encoder"))


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_the_document_admits_is_read(document: dict[str, Any], path: str) -> None:
    reading = ENDPOINTS[path][1]
    cases = schemathesis.openapi.from_dict(document)[path]["POST"].as_strategy()

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def read(case: Any) -> None:
        refused = None
        try:
            reading.read(json.dumps(case.body).encode())
        except RefusedError as error:
            refused = error
        assert refused is None or is_listed(refused.code, refused.message, refused.param), refused

    read()


def test_the_document_names_the_models_of_each_endpoint(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["EmbeddingRequest"]["properties"]["model"]["enum"] == ["encoder"]
    (name,) = document["paths"]["/v1/models/{name}"]["get"]["parameters"]
    assert name["schema"]["enum"] == ["model", "alias", "encoder"]


def test_no_object_of_a_body_admits_what_it_does_not_have(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request"):
            assert schema["additionalProperties"] is False, name
