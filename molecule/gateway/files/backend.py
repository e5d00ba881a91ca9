"""A small inference worker: real mutual TLS, readiness, answers, a stream, and an end in peace."""

from __future__ import annotations

import http.server
import json
import signal
import ssl
import sys
import threading
import time

TLS = "/etc/deepseek/tls"
DRAIN_SECONDS = 3
stopping = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    """Says who asked, as the client certificate tells."""

    protocol_version = "HTTP/1.1"
    timeout = 75
    # Head and body of an answer in one write: what is killed has answered all or nothing.
    wbufsize = 65536

    def do_GET(self) -> None:
        if stopping.is_set():
            self.answer({"ready": False}, 503 if self.path == "/readyz" else 425)
        elif self.path == "/readyz":
            self.answer({"ready": True})
        elif self.path == "/v1/models":
            subject = dict(pair[0] for pair in self.connection.getpeercert()["subject"])
            self.answer(
                {
                    "client": subject["commonName"],
                    "worker": self.server.server_address[1],
                    "forwarded_for": self.headers.get("X-Forwarded-For"),
                }
            )
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.body()
        if body is None:
            # as the service does: an answer is lost where a connection ends with bytes in it
            self.answer({"error": {"code": "request_too_large"}}, 413)
            self.wfile.flush()
            while self.connection.recv(65536):
                pass
            return
        asked = json.loads(body)
        if stopping.is_set():
            # what only a worker that stops says, so that the gateway asks another one
            self.answer({"ready": False}, 425)
        elif asked.get("stream"):
            self.stream(asked.get("seconds", 2))
        else:
            time.sleep(0.05)
            self.answer({"worker": self.server.server_address[1]})

    def body(self) -> bytes | None:
        """With a length or in chunks; None if it is larger than the gateway allows."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        most, body = int(self.headers["X-DeepSeek-Body-Limit"]), bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
            if len(body) > most:
                return None
        self.rfile.readline()
        return bytes(body)

    def stream(self, seconds: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-DeepSeek-Release", "stand-in/1.0.0@000000000000")
        self.end_headers()
        for event in (b"data: first\n\n", b"data: second\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            time.sleep(seconds)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, content: dict[str, object], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the journal free for what matters."""


class Server(http.server.ThreadingHTTPServer):
    """Takes a burst of connections, as the real service does."""

    request_queue_size = 256
    daemon_threads = True


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{TLS}/host.pem", f"{TLS}/host.key")
    context.load_verify_locations(f"{TLS}/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server((sys.argv[1], int(sys.argv[2])), Handler)
    # The handshake in the thread of the connection, so that a slow client holds up nobody.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )

    def drain() -> None:
        stopping.set()
        server.shutdown()
        server.server_close()
        time.sleep(DRAIN_SECONDS)

    threading.Thread(target=server.serve_forever, daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    drain()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
