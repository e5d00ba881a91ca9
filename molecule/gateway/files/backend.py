"""A small inference host: real mutual TLS, readiness, one JSON answer and one slow stream."""

from __future__ import annotations

import http.server
import json
import ssl
import sys
import time

TLS = "/etc/deepseek/tls"


class Handler(http.server.BaseHTTPRequestHandler):
    """Says who asked, as the client certificate tells."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/readyz":
            self.answer({"ready": True})
        elif self.path == "/v1/models":
            subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])
            self.answer(
                {
                    "client": subject["commonName"],
                    "forwarded_for": self.headers.get("X-Forwarded-For"),
                }
            )
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-DeepSeek-Release", "stand-in/1.0.0@000000000000")
        self.end_headers()
        for event in (b"data: first\n\n", b"data: second\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            time.sleep(2)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{TLS}/host.pem", f"{TLS}/host.key")
    context.load_verify_locations(f"{TLS}/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer((sys.argv[1], 8000), Handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
