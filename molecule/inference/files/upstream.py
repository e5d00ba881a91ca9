"""A stand-in for a large server: OpenAI's API over plain HTTP, and answers from the checkpoint."""

from __future__ import annotations

import http.server
import json
import os
import sys
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """Says of which architecture the checkpoint is that it was given."""

    protocol_version = "HTTP/1.1"
    checkpoint = Path()

    def is_refused(self) -> bool:
        """Whether the request lacks the key, which vLLM asks for below /v1 in the same way."""
        key = os.environ["VLLM_API_KEY"]
        wrong = self.headers["Authorization"] != f"Bearer {key}"
        if wrong and self.path.startswith("/v1"):
            self.answer({"error": "Unauthorized"}, 401)
            return True
        return False

    def do_GET(self) -> None:
        if self.is_refused():
            return
        self.answer({"data": [{"id": "stand-in", "max_model_len": 128}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_refused():
            return
        config = json.loads((self.checkpoint / "config.json").read_text(encoding="utf-8"))
        message = {"role": "assistant", "content": f"I am a {config['architectures'][0]}."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        self.answer({"model": body["model"], "choices": [choice], "usage": usage})

    def answer(self, content: dict[str, object], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    Handler.checkpoint = Path(sys.argv[1])
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()


if __name__ == "__main__":
    main()
