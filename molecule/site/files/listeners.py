"""Hold every listener against what it must accept and refuse; prints what is wrong as JSON.

``listeners.py DIRECTORY HOST``, with what forge.py makes in the directory. Listeners on standard
input: ``{host, address, port, name, path, mutual, clients, [hears]}``. ``clients`` are the names
that a mutual listener serves, ``hears`` the hosts whose packets reach it, where those are not all.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

TLS = Path("/etc/deepseek/tls")
OWN = (TLS / "host.pem", TLS / "host.key")
# after which packets count as dropped: what is refused or answered is so at once
DROPPED_SECONDS = 3


def ask(listener, certificate) -> str:
    """Status of a request, or why there was none."""
    context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    if certificate:
        context.load_cert_chain(*map(str, certificate))
    connection = http.client.HTTPConnection(listener["address"], listener["port"], timeout=300)
    try:
        plain = socket.create_connection((listener["address"], listener["port"]), timeout=300)
        connection.sock = context.wrap_socket(plain, server_hostname=listener["name"])
        connection.request("GET", listener["path"], headers={"Host": listener["name"]})
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def ask_plainly(listener) -> str:
    """What a request without TLS gets."""
    connection = http.client.HTTPConnection(listener["address"], listener["port"], timeout=300)
    try:
        connection.request("GET", listener["path"])
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def handshake(listener) -> str:
    """Empty where OpenSSL verifies chain and name, and has nothing to say."""
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", f"{listener['address']}:{listener['port']}"),
            *("-servername", listener["name"], "-verify_hostname", listener["name"]),
            *("-CAfile", str(TLS / "ca.pem"), "-verify_return_error", "-brief"),
            *("-cert", str(OWN[0]), "-key", str(OWN[1]), "-cert_chain", str(OWN[0])),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return "" if done.returncode == 0 and "Verification: OK" in done.stderr else done.stderr


def reached(listener) -> bool:
    try:
        socket.create_connection(
            (listener["address"], listener["port"]), timeout=DROPPED_SECONDS
        ).close()
    except TimeoutError:
        return False
    return True


def wrong_with(listener, directory: Path, host: str) -> tuple[list[str], int]:
    """What is wrong, and how many questions were asked."""
    if host not in listener.get("hears", [host]):
        return ([f"{listener['host']}:{listener['port']} hears it"] if reached(listener) else []), 1
    wrong = [f"handshake: {said}"] if (said := handshake(listener)) else []
    plain = ask_plainly(listener)
    if plain.startswith(("2", "3")):
        wrong.append(f"without TLS: {plain}")
    asked = 2
    presented = {path.stem: (path, path.with_suffix(".key")) for path in directory.glob("*.pem")}
    for kind, certificate in {"none": None, **presented}.items() if listener["mutual"] else ():
        name = kind.partition("-")[2]
        good = kind.startswith("valid-") and name in listener["clients"]
        said = ask(listener, certificate)
        asked += 1
        if (said == "200") != good:
            wrong.append(f"{kind}: {said}")
    return [f"{listener['host']}:{listener['port']} {each}" for each in wrong], asked


def main() -> None:
    listeners, directory, host = json.load(sys.stdin), Path(sys.argv[1]), sys.argv[2]
    wrong, asked = [], 0
    for listener in listeners:
        found, count = wrong_with(listener, directory, host)
        wrong += found
        asked += count
    print(json.dumps({"listeners": len(listeners), "asked": asked, "wrong": wrong}))


if __name__ == "__main__":
    main()
