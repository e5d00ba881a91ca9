"""Load on a gateway until SIGTERM: 32 clients with one request at a time each.

Some keep their connection, some make one for each request, and some read streams. Prints what was
answered and what failed.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import signal
import ssl
import threading
import time

stop = threading.Event()


class Client(threading.Thread):
    """One client with one request at a time."""

    def __init__(self, wanted: argparse.Namespace, name: str, kind: str) -> None:
        super().__init__()
        self.address = wanted.address
        self.body = json.loads(wanted.body)
        self.pause = wanted.pause
        self.end = f"data: {wanted.ends}\n\n".encode()
        self.kind = kind
        self.context = ssl.create_default_context(cafile=wanted.ca)
        self.context.check_hostname = False
        self.name = name
        self.connection: http.client.HTTPSConnection | None = None
        self.answered = 0
        self.problems: list[str] = []
        self.slowest = 0.0

    def run(self) -> None:
        while not stop.is_set():
            start = time.monotonic()
            try:
                self.ask()
                self.answered += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.problems.append(
                    f"{time.time():.1f} {self.kind}: {type(error).__name__}: {error}"
                )
                self.connection = None
            self.slowest = max(self.slowest, time.monotonic() - start)
            time.sleep(self.pause)

    def ask(self) -> None:
        if self.connection is None or self.kind == "new":
            self.connection = http.client.HTTPSConnection(
                self.address, 443, context=self.context, timeout=300
            )
        body = json.dumps({**self.body, "stream": self.kind == "stream"}).encode()
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {content[:200]!r}")
        if self.kind == "stream" and not content.endswith(self.end):
            raise ValueError(f"a stream ended as {content!r}")
        # as every client must: a server may say that it closes
        if self.kind == "new" or response.will_close:
            self.connection.close()
            self.connection = None


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load on a gateway until SIGTERM.")
    parser.add_argument("address")
    parser.add_argument("--ca", default="/etc/deepseek/tls/ca.pem", help="whom the clients trust")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--streams", type=int, default=8, help="how many of them read streams")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two requests")
    parser.add_argument("--body", default='{"seconds": 1}', help="what is asked, as JSON")
    parser.add_argument("--ends", default="second", help="what the last event of a stream is")
    return parser.parse_args()


def main() -> None:
    wanted = asked()
    new = wanted.clients // 4
    kept = wanted.clients - wanted.streams - new
    kinds = ["stream"] * wanted.streams + ["new"] * new + ["kept"] * kept
    clients = [Client(wanted, f"client {place}", kind) for place, kind in enumerate(kinds)]
    for client in clients:
        client.start()
    signal.sigwait({signal.SIGTERM})
    stop.set()
    for client in clients:
        client.join()
    answered: collections.Counter[str] = collections.Counter()
    for client in clients:
        answered[client.kind] += client.answered
    problems = [problem for client in clients for problem in client.problems]
    print(
        json.dumps(
            {
                "answered": answered,
                "failed": len(problems),
                "problems": sorted(problems)[:5] + sorted(problems)[-5:],
                "slowest": round(max(client.slowest for client in clients), 2),
            }
        )
    )


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
