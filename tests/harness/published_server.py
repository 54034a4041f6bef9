"""A server with the layout of MLCommons', on this machine, that fails when told to."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.data.published import TRAIN_PREFIX, VALID_PREFIX

C4 = "llama-3-1-8b-preprocessed-c4-dataset"
TOKENIZER = "llama-3-1-8b-tokenizer"
TRAIN = f"{TRAIN_PREFIX}.bin"


@dataclass
class Published:
    """What the server holds and how it behaves."""

    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    cut_after: list[int] = field(
        default_factory=list
    )  # bytes of a file after which a connection breaks, once each
    errors: list[int] = field(default_factory=list)  # status of the next requests
    ranges: bool = True
    pause_s: float = 0.0  # behind every 16 KiB
    address: str = ""

    def ranges_of(self, name: str) -> list[str | None]:
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(name)]


def contents(seed: int = 0, size: int = 300_000) -> dict[str, dict[str, bytes]]:
    """Data set -> name -> bytes, as published but small."""
    chance = random.Random(seed)
    c4 = [f"{prefix}.{end}" for prefix in (TRAIN_PREFIX, VALID_PREFIX) for end in ("bin", "idx")]
    names = {
        C4: [*c4, "LICENSE.txt", "NOTICE.txt", "c4-train.en_7_text_document.bin"],
        TOKENIZER: [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "model-00001.safetensors",
        ],
    }
    return {
        key: {name: chance.randbytes(chance.randint(size // 2, size)) for name in names[key]} for key in names
    }


def manifest(files: dict[str, bytes]) -> bytes:
    lines = [f"{hashlib.md5(content).hexdigest()}  ./{name}\n" for name, content in files.items()]
    return "".join(lines).encode()


@contextlib.contextmanager
def serving(held: dict[str, dict[str, bytes]]) -> Iterator[Published]:
    """A server that holds data sets, until the block ends; its metadata lie at `address`."""
    published = Published()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(published))
    server.daemon_threads = True
    base = f"http://127.0.0.1:{server.server_address[1]}"
    published.address = f"{base}/metadata"
    for name, files in held.items():
        published.files[f"/metadata/{name}.uri"] = f"{base}/sets/{name}\n".encode()
        published.files[f"/metadata/{name}.md5"] = manifest(files)
        published.files.update({f"/sets/{name}/{file}": content for file, content in files.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield published
    finally:
        server.shutdown()
        server.server_close()


def _handler(published: Published) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def do_GET(self) -> None:
            self._answer("GET")

        def _answer(self, method: str) -> None:
            asked = self.headers.get("Range")
            published.requests.append((method, self.path, asked))
            content = published.files.get(self.path)
            if published.errors or content is None:
                status = published.errors.pop(0) if published.errors else 404
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/login")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and published.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if method == "GET":
                self._send(content[start:])

        def _send(self, content: bytes) -> None:
            large = self.path.startswith("/sets/")
            if large and published.cut_after:
                content = content[: published.cut_after.pop(0)]
            with contextlib.suppress(OSError):  # the client may be killed
                for at in range(0, len(content), 1 << 14):
                    self.wfile.write(content[at : at + (1 << 14)])
                    time.sleep(published.pause_s if large else 0)

    return Handler
