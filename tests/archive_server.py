"""A web server over a folder that misbehaves as it is told."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, unquote_plus, urlsplit


class Archive:
    """Files below ``root``; ``faults[name]`` is a list of what goes wrong with the next requests of that file."""

    def __init__(self, root: Path) -> None:
        self.root, self.requests, self.ranges = root, Counter(), []
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: str | None = None
        # Bodies of addresses that are no files, by path; each is a function of the query's text.
        self.answers: dict[str, Callable[[str], bytes]] = {}
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.base = ""

    def fault(self, name: str) -> str | None:
        with self.lock:
            self.requests[name] += 1
            return self.faults[name].pop(0) if self.faults[name] else self.always


def _handler(archive: Archive):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            address = urlsplit(self.path)
            archive.times.append(time.monotonic())
            if address.path in archive.answers:
                body = archive.answers[address.path](unquote_plus(address.query))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            path = archive.root / unquote(address.path).lstrip("/")
            fault = archive.fault(path.name)
            if fault and fault.isdigit():
                self.send_response(int(fault))
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if first and fault != "no-range":
                archive.ranges.append(path.name)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            else:
                first = 0
                self.send_response(200)
            body = content[first:]
            if fault == "corrupt":
                body = bytearray(body)
                body[-5000] ^= 0x55
            if fault == "html":
                body = b"<html>Please log in</html>"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault in ("drop", "truncate"):
                body = body[: len(body) // 2]
            self.wfile.write(body)
            if fault == "drop":
                self.wfile.flush()
                self.connection.close()

    return Handler


@contextmanager
def serving(root: Path):
    """Yield the `Archive` of a server that runs in a thread."""
    archive = Archive(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(archive))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    archive.base = f"http://127.0.0.1:{server.server_port}"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
