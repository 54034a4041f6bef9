"""What must not be published: keys, tokens, passwords, private hosts; by file and line."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from compliance.case import Violation

_ASSIGNED = (
    r"""(?:password|passwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|[a-z_]*token)["']?\s*[=:]\s*"""
)
PATTERNS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY" r"-----"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z]{30,}\b"),
    "an NVIDIA key": re.compile(r"\bnvapi-[A-Za-z0-9_-]{40,}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a Weights & Biases key": re.compile(r"(?i)wandb[a-z_]*key\W{1,4}[0-9a-f]{40}\b"),
    "a web token": re.compile(r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,}"),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"{}$<]+:[^\s/:@'\"{}$<]+@"),
    "a password": re.compile(r"(?i)\b" + _ASSIGNED + r"""(["'])(?=[^"']*[0-9])[^"'\s{}$<>]{8,}\1"""),
    "a private host name": re.compile(r"\b[a-z0-9][a-z0-9-]*\.(?:internal|corp|intra|lan|localdomain)\b"),
}
_ADDRESS = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])")
_HOME = re.compile(r"(?<![\w./])/(?:home|Users)/(?!user\b|ubuntu\b)[A-Za-z][\w.-]*")
_HARMLESS = ("127.", "0.0.0.0", "255.")
_LONGEST_LINE = 20_000
_MOST = 20  # of one file


def scan(root: Path) -> Iterator[Violation]:
    """Every secret below a directory, in the order of the paths; binary files are passed over."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield from islice(_file(path, f"{root.name}/{path.relative_to(root).as_posix()}"), _MOST)


def _file(path: Path, name: str) -> Iterator[Violation]:
    with path.open("rb") as file:
        if b"\0" in file.read(8192):
            return
        file.seek(0)
        for number, raw in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            yield from line(raw.decode("utf-8", errors="replace"), name, number)


def line(text: str, name: str, number: int) -> Iterator[Violation]:
    """What one line gives away; the violation shows where, never what."""
    for what, pattern in PATTERNS.items():
        if pattern.search(text):
            yield _violation("error", name, number, what, "take it out, and replace it where it is valid")
    for match in _ADDRESS.finditer(text):
        is_version = "version" in text[max(0, match.start() - 40) : match.start()].lower()
        if not is_version and _is_private(match[1]):
            yield _violation("error", name, number, "a private network address", "say localhost or <address>")
            break
    if _HOME.search(text):
        yield _violation(
            "warning", name, number, "a home directory", "it names a person; a relative path says as much"
        )


def _is_private(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_private and not text.startswith(_HARMLESS)


def _violation(severity: str, name: str, number: int, what: str, message: str) -> Violation:
    return Violation(
        rule="secret", severity=severity, file=name, line=number, key=None, found=what, expected="none",
        message=message, section="what is submitted is published",
    )  # fmt: skip
