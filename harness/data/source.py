"""Sources of the published files: a web server that speaks the downloader's protocol, or a directory."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from harness.base.errors import EnvironmentFailure
from harness.base.text import printable
from harness.data.published import Dataset, File

_CHUNK = 1 << 20
_MANIFEST_BYTES = 1 << 24


class Interruption(Exception):
    """The source failed in a way that may pass; continue from where the data ended."""


class Source(Protocol):
    """A place that holds the published files."""

    def manifest(self, dataset: Dataset) -> str:
        """The text of the manifest."""

    def size(self, dataset: Dataset, file: File) -> int:
        """Size of a file in bytes."""

    def read(self, dataset: Dataset, file: File, start: int) -> Iterator[bytes]:
        """The bytes of a file from `start` on.

        Raises:
            Interruption: the data ended early.
        """

    def where(self, dataset: Dataset, file: File) -> str:
        """The address of a file, for messages and the record."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they lead to a login page, not to data."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


class Web:
    """The server of MLCommons, or a mirror with the same layout."""

    def __init__(self, metadata: str, *, timeout_s: float = 60.0, waits_s: tuple[float, ...] = (1.0, 4.0)):
        """Create the source; the server is not asked yet.

        Args:
            metadata: address of the directory with the .uri and .md5 files.
            waits_s: pauses in seconds before further attempts to read a small file.
        """
        self._metadata, self._timeout_s, self._waits_s = metadata.rstrip("/"), timeout_s, waits_s
        self._bases: dict[str, str] = {}

    def manifest(self, dataset: Dataset) -> str:
        return self._text(f"{self._metadata}/{dataset.manifest}")

    def size(self, dataset: Dataset, file: File) -> int:
        where = self.where(dataset, file)
        with self._patiently(urllib.request.Request(where, method="HEAD")) as answer:
            length = answer.headers["Content-Length"]
        if not (length or "").isdecimal():
            raise EnvironmentFailure(f"{where}: the server does not report the size")
        return int(length)

    def read(self, dataset: Dataset, file: File, start: int) -> Iterator[bytes]:
        request = urllib.request.Request(self.where(dataset, file))
        if start:
            request.add_header("Range", f"bytes={start}-")
        with self._open(request) as answer:
            skip = (
                start if answer.status == 200 else 0
            )  # a server without range requests sends the file from its start
            while data := self._some(request, answer):
                skipped = min(skip, len(data))
                skip -= skipped
                if data[skipped:]:
                    yield data[skipped:]
            if answer.length:
                raise Interruption(f"{request.full_url}: the connection ended {answer.length:,} bytes early")

    def where(self, dataset: Dataset, file: File) -> str:
        if dataset.name not in self._bases:
            uri = f"{self._metadata}/{dataset.name}.uri"
            base = self._text(uri).strip().rstrip("/")
            if not is_address(base):
                raise EnvironmentFailure(
                    f"{uri}: found '{printable(base, 60)}'; expected the address of the files"
                )
            self._bases[dataset.name] = base
        return f"{self._bases[dataset.name]}/{urllib.parse.quote(file.source)}"

    def _text(self, url: str) -> str:
        with self._patiently(urllib.request.Request(url)) as answer:
            return answer.read(_MANIFEST_BYTES).decode("utf-8", "replace")

    def _patiently(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        for wait_s in self._waits_s:
            try:
                return self._open(request)
            except Interruption:
                time.sleep(wait_s)
        try:
            return self._open(request)
        except Interruption as error:
            raise EnvironmentFailure(
                f"{error}; without network copy from a directory: ./run.sh data fetch --offline DIR"
            ) from None

    def _some(self, request: urllib.request.Request, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read1(_CHUNK)  # returns what has arrived: on a slow line a megabyte takes long
        except (OSError, http.client.HTTPException) as error:
            raise Interruption(f"{request.full_url}: {error or type(error).__name__}") from None

    def _open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        try:
            opener = urllib.request.build_opener(_NoRedirect)
            answer: http.client.HTTPResponse = opener.open(request, timeout=self._timeout_s)
            return answer
        except urllib.error.HTTPError as error:
            error.close()
            message = f"{request.full_url}: the server answers {error.code} {printable(error.reason, 60)}"
            if error.code in (408, 429) or error.code >= 500:
                raise Interruption(message) from None
            raise EnvironmentFailure(message) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise Interruption(f"{request.full_url}: no connection ({printable(reason, 80)})") from None


def is_address(text: str) -> bool:
    """Whether a text is the address of a directory on a web server."""
    parts = urllib.parse.urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and len(text.split()) == 1


class Folder:
    """A directory that holds the files and their manifests at any depth, as the downloader leaves them."""

    def __init__(self, directory: Path):
        self._directory = directory

    def manifest(self, dataset: Dataset) -> str:
        return self._find(dataset.manifest).read_text(encoding="utf-8", errors="replace")

    def size(self, dataset: Dataset, file: File) -> int:
        return self._find(PurePosixPath(file.source).name).stat().st_size

    def read(self, dataset: Dataset, file: File, start: int) -> Iterator[bytes]:
        with self._find(PurePosixPath(file.source).name).open("rb") as source:
            source.seek(start)
            while data := source.read(_CHUNK):
                yield data

    def where(self, dataset: Dataset, file: File) -> str:
        return str(self._find(PurePosixPath(file.source).name))

    def _find(self, name: str) -> Path:
        found = sorted(self._directory.rglob(name), key=lambda path: (len(path.parts), path))
        if not found:
            raise EnvironmentFailure(f"{self._directory}: found no {name} in it or below")
        return found[0]
