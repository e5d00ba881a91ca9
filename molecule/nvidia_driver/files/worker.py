"""Stand-in for a worker of the inference service: ready once it listens, ends when asked to."""

import http.server
import ssl
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers whether the worker is ready."""

    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()


address, port, directory = sys.argv[1], int(sys.argv[2]), "/etc/deepseek/tls"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{directory}/host.pem", f"{directory}/host.key")
context.load_verify_locations(f"{directory}/ca.pem")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer((address, port), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
