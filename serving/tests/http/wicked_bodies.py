"""Bodies of as many parts as a body can have, and what they are made of."""

from __future__ import annotations

from support import MODEL

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ENCODER = "tiny-encoder"
LARGE = 2**20
NAMED = f'{{"model":"{MODEL}",'.encode()
ASKED = NAMED + b'"messages":[{"role":"user","content":"a"}],'


def filled(head: bytes, unit: bytes, tail: bytes, size: int = LARGE) -> bytes:
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def numbered(head: bytes, entry: bytes, tail: bytes, count: int) -> bytes:
    return head + b",".join(entry % number for number in range(count)) + tail


# Each of as many parts as a body can have.
WICKED: dict[str, tuple[str, bytes]] = {
    "messages": (CHAT, filled(NAMED + b'"messages":[', b"{},", b"{}]}", 8 * 2**20)),
    "content": (
        CHAT,
        filled(NAMED + b'"messages":[{"role":"user","content":[', b"0,", b"0]}]}"),
    ),
    "tools": (CHAT, filled(ASKED + b'"tools":[', b"[],", b"[]]}")),
    "stop": (CHAT, filled(ASKED + b'"stop":[', b'"a",', b'"a"]}')),
    "logit_bias": (CHAT, numbered(ASKED + b'"logit_bias":{', b'"%d":"x"', b"}}", 200_000)),
    "metadata": (CHAT, filled(ASKED + b'"metadata":[', b"1.5,", b"1]}")),
    "arguments": (CHAT, numbered(NAMED, b'"k%d":1', b"}", 200_000)),
    "nested": (CHAT, ASKED + b'"metadata":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    "prompt": (COMPLETIONS, filled(NAMED + b'"prompt":[', b"0,", b"0]}")),
    "prompts": (COMPLETIONS, filled(NAMED + b'"prompt":[', b"[0],", b"[0]]}")),
    "input": (
        EMBEDDINGS,
        filled(f'{{"model":"{ENCODER}","input":['.encode(), b'"",', b'""]}'),
    ),
    "quotes that are escaped": (
        CHAT,
        filled(NAMED + b'"messages":[{"role":"user","content":"', rb"\",[", b'"}]}'),
    ),
    "a number": (CHAT, filled(ASKED + b'"seed":', b"9", b"}")),
    "a key": (CHAT, filled(ASKED + b'"', b"k", b'":1}')),
    "a model": (
        CHAT,
        filled(b'{"messages":[{"role":"user","content":"a"}],"model":"', b"m", b'"}'),
    ),
    "spaces": (CHAT, b" " * LARGE),
}
