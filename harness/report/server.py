"""Shows the campaigns of a directory to a browser of this machine: it answers GET alone and writes nothing."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from harness.base.errors import UserError
from harness.campaign import store
from harness.campaign.campaign import Campaign
from harness.contract import file_names
from harness.report import live_page

ADDRESS = "127.0.0.1"
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_OURS = {file_names.REPORT: "text/html; charset=utf-8"}  # files of a campaign that are shown
_MOST = 8 * 2**20  # bytes of such a file
_SILENT_S = 15.0  # time that a browser may take to send its request


def serve(directory: Path, port: int, say: Callable[[str], None]) -> None:
    """Answer until Ctrl-C.

    Args:
        port: 0 takes any free port.
        say: called with the address.

    Raises:
        OSError: the port is taken.
    """
    with server_of(directory, port) as server:
        say(f"http://{ADDRESS}:{server.server_address[1]}/ shows {directory}; Ctrl-C ends it")
        server.serve_forever(poll_interval=0.2)


def server_of(directory: Path, port: int) -> ThreadingHTTPServer:
    """The server, not yet started."""
    home = directory.resolve()

    class Handler(_Handler):
        root = home

    return _Server((ADDRESS, port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closes the connection before it has its answer."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for the paths of `_page`; http.server or this class refuses everything else."""

    root: Path
    protocol_version = "HTTP/1.0"  # one request, then the connection is closed
    server_version, sys_version = "fourmark", ""
    timeout = _SILENT_S

    def do_GET(self) -> None:
        if not self._is_from_here():
            self.send_error(HTTPStatus.FORBIDDEN, "this server answers to localhost alone")
            return
        try:
            found = self._page(unquote(self.path.partition("?")[0].partition("#")[0], errors="strict"))
        except (UserError, OSError, ValueError) as error:
            self.send_error(HTTPStatus.NOT_FOUND, explain=html.escape(str(error)[:200]))
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body, kind = found
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with 4xx where http.server would use 5xx, because the sender made the mistake."""
        if code >= 500:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "GET alone"
        super().send_error(code, message, explain)

    def end_headers(self) -> None:
        for name, value in _SECURITY.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for a request."""

    def _is_from_here(self) -> bool:
        """Whether the request names this machine. A page of another site may send its own name (DNS rebinding)."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return host in (ADDRESS, "localhost")

    def _page(self, path: str) -> tuple[bytes, str] | None:
        """The answer to a path: the list of campaigns, or a file of one of them by its exact name."""
        if path == "/":
            page = live_page.render([live_page.read(one) for one in self._campaigns()], self.root.name)
            return page.encode(), _OURS[file_names.REPORT]
        name, _, file = path.removeprefix("/").partition("/")
        if file not in _OURS or name not in {one.directory.name for one in self._campaigns()}:
            return None
        shown = (self.root / name / file).resolve()
        if not shown.is_relative_to(self.root) or not shown.is_file():
            return None
        with shown.open("rb") as source:
            return source.read(_MOST), _OURS[file]

    def _campaigns(self) -> list[Campaign]:
        """The campaigns inside the directory, without links that lead out of it."""
        return [one for one in store.read_all(self.root) if one.directory.resolve().is_relative_to(self.root)]
