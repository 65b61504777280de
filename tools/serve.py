"""The built pages at an address of this machine."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from tools import tree


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder as the hosts of static pages do, and says nothing."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def send_error(self, code, message=None, explain=None):
        """A page that is not there is answered with 404.html."""
        page = tree.HTML / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, message, explain)
            return
        content = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def server(port: int = 0) -> ThreadingHTTPServer:
    """A web server on this machine for the built pages (0: any free port)."""
    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=tree.HTML))


def serve(port: int = 8000) -> None:
    with server(port) as running:
        print(f"The book is at http://127.0.0.1:{running.server_port} (Ctrl-C to stop)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
