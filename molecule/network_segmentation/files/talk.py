"""Talk over TCP or UDP: `talk.py serve`, or ask a server once or for as long as it answers."""

import socket
import sys
import threading
import time

TCP_PORT, UDP_PORTS = 9999, (7000, 7100)
# after which packets count as dropped: what is refused or answered is so at once
DROPPED_SECONDS = 2


def echo_udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", port))
        while True:
            data, client = server.recvfrom(65535)
            server.sendto(data, client)


def serve():
    for port in UDP_PORTS:
        threading.Thread(target=echo_udp, args=(port,), daemon=True).start()
    with socket.create_server(("", TCP_PORT)) as server:
        while True:
            client, _address = server.accept()
            threading.Thread(target=echo_tcp, args=(client,), daemon=True).start()


def echo_tcp(client):
    with client:
        while data := client.recv(1024):
            client.sendall(data)


def keep_asking(address, path):
    """Ask over one connection, and write down each answer."""
    client = socket.create_connection((address, TCP_PORT), timeout=300)
    with client, open(path, "w") as answers:
        client.settimeout(300)
        while True:
            client.sendall(b"still there?\n")
            client.recv(1024)
            print(time.time(), file=answers, flush=True)
            time.sleep(0.2)


def ask_in_fragments(address, port, size):
    """Send a datagram that does not fit into one packet; gives the bytes that came back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DROPPED_SECONDS)
        client.connect((address, port))
        for _attempt in range(2):
            try:
                client.send(b"x" * size)
                return len(client.recv(65535))
            except TimeoutError:
                continue
            except OSError as error:
                return error.strerror
    return "nothing"


if sys.argv[1] == "serve":
    serve()
elif sys.argv[1] == "keep-asking":
    keep_asking(sys.argv[2], sys.argv[3])
else:
    print(ask_in_fragments(sys.argv[2], int(sys.argv[3]), 4000))
