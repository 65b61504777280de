"""A folder of pages at an address of this machine."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from tools import tree


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder as the hosts of static pages do, and says nothing."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def send_error(self, code, message=None, explain=None):
        """A page that is not there is answered with 404.html."""
        page = Path(self.directory, "404.html")
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


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """The address at which a folder is served (port 0: any that is free)."""
    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def serve() -> None:
    """The book, until interrupted."""
    with serving(tree.HTML, 8000) as address:
        print(f"The book is at {address} (Ctrl-C to stop)", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
