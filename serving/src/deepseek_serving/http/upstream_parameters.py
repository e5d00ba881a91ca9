"""What of a request an upstream gets: the parameters of every engine here, and those of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from deepseek_serving.http.complaints import RefusedError, written
from deepseek_serving.http.schema.accepted import (
    ChatAccepted,
    CompletionAccepted,
    EmbeddingAccepted,
)
from deepseek_serving.http.schema.body import UNSUPPORTED, Body
from deepseek_serving.http.schema.upstream import (
    AudioPart,
    AudioUrlPart,
    ChatExtras,
    EmbeddingExtras,
    Extras,
    ImagePart,
    ScoreExtras,
    VideoPart,
)

Validate = Callable[[type[Body], object], Any]

EXTRAS: Mapping[str, type[Body]] = {
    "/v1/chat/completions": ChatExtras,
    "/v1/completions": Extras,
    "/v1/embeddings": EmbeddingExtras,
    "/v1/rerank": ScoreExtras,
    "/v1/score": ScoreExtras,
}
# without effect here: hints to other services, names that clients give, and what is ours to set
LEFT_OUT: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(ChatAccepted.model_fields),
    "/v1/completions": frozenset(CompletionAccepted.model_fields),
    "/v1/embeddings": frozenset(EmbeddingAccepted.model_fields),
    "/v1/rerank": frozenset({"user"}),
    "/v1/score": frozenset({"user"}),
}
# which of the settings' kinds a part is of, and what it must be
MEDIA: Mapping[str, tuple[str, type[Body]]] = {
    "image_url": ("image", ImagePart),
    "input_audio": ("audio", AudioPart),
    "audio_url": ("audio", AudioUrlPart),
    "video_url": ("video", VideoPart),
}
MOST_MEDIA = 16
# of one, about: an image in tiles
TOKENS_OF_MEDIA = 1000


def _extras_of(path: str, sent: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was sent, what is judged by the upstream's list and not by every engine's."""
    names = EXTRAS[path].model_fields
    return {name: value for name, value in sent.items() if name in names and value is not None}


def _check_media(part: Mapping[str, Any], place: tuple[str | int, ...], validate: Validate) -> None:
    """Nothing here fetches what a client names: neither this service nor what it asks."""
    kind = part["type"]
    try:
        validate(MEDIA[kind][1], dict(part))
    except RefusedError as error:
        param = ".".join(filter(None, (written(place), error.param)))
        raise RefusedError(error.message, param, error.code) from error
    url = part[kind].get("url", "data:")
    if not url.startswith("data:"):
        param = written((*place, kind, "url"))
        raise RefusedError(
            f"'{param}': nothing is fetched from here; send the content itself, as a data: URL.",
            param,
            UNSUPPORTED,
        )


def _without_media(
    messages: object, media: Collection[str], validate: Validate
) -> tuple[object, int]:
    """Messages with an empty text where a medium is, and how many there are."""
    if not media or not isinstance(messages, list):
        return messages, 0
    found = 0
    kept = []
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            kept.append(message)
            continue
        parts: list[object] = []
        for place, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if not (isinstance(kind, str) and kind in MEDIA and MEDIA[kind][0] in media):
                parts.append(part)
                continue
            _check_media(part, ("messages", number, "content", place), validate)
            found += 1
            parts.append({"type": "text", "text": ""})
        kept.append({**message, "content": parts})
    if found > MOST_MEDIA:
        raise RefusedError(
            f"'messages': expected at most {MOST_MEDIA} images, sounds and films, but got {found}.",
            "messages",
            "invalid_value",
        )
    return kept, found


def own_part(
    path: str, sent: Mapping[str, Any], media: Collection[str], validate: Validate
) -> tuple[dict[str, Any], int]:
    """What the schema of every engine is to judge, and how many media there are.

    The rest is judged here. Raises RefusedError, as `validate` does.
    """
    extras = _extras_of(path, sent)
    validate(EXTRAS[path], extras)
    own = {name: value for name, value in sent.items() if name not in extras}
    if "messages" in own:
        own["messages"], found = _without_media(own["messages"], media, validate)
        return own, found
    return own, 0


def passed_on(path: str, sent: Mapping[str, Any]) -> dict[str, Any]:
    """The body for the upstream: what it may do something with, as it was sent."""
    extras = _extras_of(path, sent)
    return {
        name: value
        for name, value in sent.items()
        if name in extras or (value is not None and name not in LEFT_OUT[path])
    }


def rendered(path: str, own: Mapping[str, Any], sent: Mapping[str, Any]) -> list[object]:
    """What is read as tokens."""
    extras = _extras_of(path, sent)
    names = ("documents", "chat_template_kwargs", "bad_words")
    return [own.get(name) for name in ("messages", "tools", "prompt")] + [
        extras.get(name) for name in names
    ]
