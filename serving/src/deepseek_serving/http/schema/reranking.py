"""The bodies of requests for scores: documents ranked by a question, and pairs of texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from deepseek_serving.generation.request import Scoring
from deepseek_serving.http.schema.body import Body, refuse
from deepseek_serving.http.schema.bounds import MOST_TEXTS, Count, Name

Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)]


class _Scored(Body):
    """What both have; `truncate_prompt_tokens`: -1 stands for as many as the model reads."""

    model: Name
    truncate_prompt_tokens: Literal[-1] | Count | None = None
    use_activation: bool | None = None

    # no effect on the scores
    user: str | None = None

    def scoring(self, questions: list[str], documents: list[str], **more: Any) -> Scoring:
        most = self.truncate_prompt_tokens
        return Scoring(
            model=self.model,
            questions=questions,
            documents=documents,
            most=2**31 if most == -1 else most,
            raw=self.use_activation is False,
            **more,
        )


class TextDocument(Body):
    """A document as an object."""

    text: str


class RerankRequest(_Scored):
    """The body of POST /v1/rerank and /v2/rerank."""

    query: str
    documents: Annotated[
        list[str | TextDocument], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)
    ]
    top_n: Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Count | None = None

    def asked(self) -> Scoring:
        documents = [
            document if isinstance(document, str) else document.text for document in self.documents
        ]
        return self.scoring(
            [self.query] * len(documents),
            documents,
            most_document=self.max_tokens_per_doc,
            top=self.top_n,
            shows=self.return_documents is not False,
        )


class ScoreRequest(_Scored):
    """The body of POST /v1/score: one question or several, and as many documents or one each."""

    text_1: str | Texts
    text_2: str | Texts

    @model_validator(mode="after")
    def pairs_up(self) -> ScoreRequest:
        questions, documents = self._lists()
        if len(questions) not in (1, len(documents)):
            refuse(
                f"text_1 has {len(questions)} texts and text_2 {len(documents)}: one text, or as "
                "many as text_2 has",
                "text_1",
            )
        return self

    def _lists(self) -> tuple[list[str], list[str]]:
        first, second = self.text_1, self.text_2
        return (
            [first] if isinstance(first, str) else first,
            [second] if isinstance(second, str) else second,
        )

    def asked(self) -> Scoring:
        questions, documents = self._lists()
        if len(questions) == 1:
            questions = questions * len(documents)
        return self.scoring(questions, documents)
