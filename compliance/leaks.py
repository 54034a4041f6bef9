"""Finds what must not be published (keys, tokens, passwords, private hosts) and reports its file and line."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from compliance.rule_input import LARGEST_FILE_BYTES, Violation

# The forms of keys that their issuers document. Each begins with a fixed text, so that long lines are searched fast.
TOKENS = {
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "an NVIDIA key": r"\bnvapi-[A-Za-z0-9_-]{40,}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a Slack address": r"hooks\.slack\.com/services/T[A-Za-z0-9_/]{20,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "an API key": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}",
    "a package registry token": r"\b(?:pypi-AgE[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36})",
    "a Weights & Biases key": r"(?i)wandb[a-z_]{0,20}key\W{1,4}[0-9a-f]{40}\b",
    "an Azure key": r"(?i)\bAccountKey=[A-Za-z0-9+/]{40,}={0,2}",
    "a web token": r"\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,}",
    "a bearer token": r"(?i)\bauthorization\W{1,4}(?:bearer|basic|token)\s+[A-Za-z0-9+/._=-]{16,}",
    "a registry login": r"\"auth\"\s{0,9}:\s{0,9}\"[A-Za-z0-9+/]{16,}={0,2}\"",
    "a password in an address": r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@'\"{}$<]{1,99}:[^\s/:@'\"{}$<]{1,99}@",
    "a password of .netrc": r"(?i)\bmachine\s+\S{1,99}\s+login\s+\S{1,99}\s+password\s+\S",
    "a password on a command line": r"\bsshpass\s+-p\s*[^\s$]",
}
_KEY = (
    r"(?:\b|_)(?:password|passwd|passphrase|secret|secret[_-]?(?:access[_-]?)?key|api[_-]?key|access[_-]?key|"
    r"private[_-]?key|(?:auth|access|api|hf|hub|github|bot|refresh|client|session)[_-]?(?:token|secret)|token)"
)
# _QUOTED matches `name = "value"` in code and JSON. _BARE matches `NAME=value`, `name: value` and `--name value` in
# shell, YAML and .env files.
_QUOTED = re.compile(rf"(?i){_KEY}[\"']?\s{{0,9}}[=:]\s{{0,9}}([\"'])(?P<value>[^\"'\s]{{6,200}})\1")
_BARE = re.compile(
    rf"(?i)(?:^\s*|[\s;]|export |--){_KEY}(?:=|:\s{{1,9}}|\s(?=\S*\d))(?P<value>[^\s\"'()\[\],;#]{{6,200}})(?=\s|$)"
)
_INI = re.compile(  # `name = value` in ~/.aws/credentials; at least 20 characters, because code has short assignments
    rf"(?i)^\s*[\w-]{{0,40}}?{_KEY}\s{{0,9}}=\s{{0,9}}(?P<value>(?=\S*\d)[A-Za-z0-9+/=_-]{{20,200}})\s*$"
)
_PREFIXED = re.compile(
    r"(?:^|\s)[A-Z][A-Z0-9_]{0,40}_(?:PASSWORD|SECRET|TOKEN|API_KEY|ACCESS_KEY|SECRET_KEY)=[\"']?"
    r"(?P<value>[^\s\"'()\[\],;#]{6,200})"
)
_MEANS_NOTHING = re.compile(
    r"[{}$<>()*]|\.\.\.|^(?:none|null|true|false|changeme|redacted|example.*|your.*|x+|os\.\w.*|self\.\w.*)$",
    re.I,
)
_HOST_ENDS = r"(?:internal|corp|intra|intranet|lan|localdomain|home\.arpa)"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,62})"
_HOST = re.compile(
    rf"(?<![\w.-])(?P<host>{_LABEL}(?:\.{_LABEL}){{0,6}})\.(?:{_HOST_ENDS})\b(?![\w.(-])", re.I
)
_NAMES_HOST = re.compile(
    r"(?:://|@|\b(?:ssh|scp|host|hostname|addr|address|server|node|nodes|master|endpoint|registry|proxy|url)\b\W{0,4})$"
)
_IPV4 = re.compile(r"(?<![\d.])(?<![=<>~!]=)(\d{1,3}(?:\.\d{1,3}){3})(?![\d.]|-\w)")
_IPV6 = re.compile(r"(?i)(?<![\w:.])(?:fd[0-9a-f]{2}|fe80)(?::[0-9a-f]{0,4}){2,7}(?![\w:])")
_VERSION = re.compile(
    r"(?i)(?:version|driver|firmware|release|cuda|cudnn|cu(?:rand|blas|fft|solver|sparse)\w*|nccl|rocm|-cu\d\d)\W{0,8}[\w.-]*$"
)
_SHARED = ipaddress.IPv4Network((100 << 24 | 64 << 16, 10))  # carrier-grade addresses, used inside clouds
_HARMLESS = ("127.", "0.", "255.", "192.0.2.", "198.51.100.", "203.0.113.")  # loopback, masks, documentation
_HOME = re.compile(r"(?<![\w./])(?:/(?:home|Users)/(?!user\b|ubuntu\b|<)|C:\\Users\\)[A-Za-z][\w.-]*")
_FILES = re.compile(
    r"(?i)^(?:id_(?:rsa|dsa|ecdsa|ed25519)|.*\.(?:pem|key|p12|pfx|jks|kdbx|ppk)|\.?netrc|\.?env|credentials(?:\.json)?|"
    r"\.?htpasswd|kubeconfig)$"
)
# Every line with a secret contains one of these texts. Searching the lower-case bytes for them first is fast, and only
# the lines that contain one are searched with the patterns above.
_AFTER_KEY = rb"[\"'=:\x00-\x20\x80-\xff]"  # bytes that may follow the name of a password
_ANCHORS = [
    re.compile(pattern)
    for pattern in (
        *(re.escape(text) for text in (
            b"-----begin ", b"akia", b"asia", b"github_pat_", b"glpat-", b"nvapi-", b"xox", b"hooks.slack", b"aiza",
            b"pypi-age", b"npm_", b"wandb", b"accountkey=", b"authorization", b'"auth"', b"sshpass", b"passw",
            b"passphrase", b"secret", b"/home/", b"/users/", b"c:\\users\\",
            b"\xc5\xbf", b"\xe2\x84\xaa",  # U+017F and U+212A: a pattern that ignores case matches them as s and k
        )),
        rb"gh[pousr]_",
        rb"hf_[a-z0-9]{30}",
        rb"sk-(?<![a-z0-9_]sk-)[a-z0-9_-]",
        rb"eyj(?<![a-z0-9_]eyj)[a-z0-9_-]{15}",
        rb"://[^\s/:@'\"{}$<]{1,396}:",
        rb"token" + _AFTER_KEY,
        rb"key(?:(?<=api.key)|(?<=apikey)|(?<=access.key)|(?<=accesskey)|(?<=private.key)|(?<=privatekey))"
        + _AFTER_KEY,
        rb"\.(?:\d{1,3}\.\d|internal|corp|intra|lan|localdomain|home\.arpa)",
        rb"f(?:d[0-9a-f]{2}|e80):[0-9a-f]{0,4}:",
    )
]  # fmt: skip
_PATTERNS = {what: re.compile(pattern) for what, pattern in TOKENS.items()}
_PIECE, _OVERLAP = (
    20_000,
    400,
)  # characters; pieces of a long line overlap by more than a secret's length
_MOST = 20  # violations reported for one file


def scan(root: Path, machine_names: Sequence[str] = ()) -> Iterator[Violation]:
    """Yields every secret below a directory in the order of the paths. Links are not followed.

    Args:
        machine_names: names of this machine, which must not be published either.
    """
    own = {
        name.encode(): re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for name in machine_names
        if _telling(name)
    }
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield from islice(_file(path, f"{root.name}/{path.relative_to(root).as_posix()}", own), _MOST)


def _telling(name: str) -> bool:
    """Whether a name is so specific that a text does not contain it by chance."""
    return len(name) >= 4 and bool(re.search(r"[\d.-]", name)) and not name.startswith("localhost")


def _file(path: Path, name: str, own: Mapping[bytes, re.Pattern[str]]) -> Iterator[Violation]:
    if _FILES.match(path.name):
        yield _violation(
            "error", name, None, "a file for keys or passwords", "the file would be published: delete it"
        )
    if path.stat().st_size > LARGEST_FILE_BYTES:
        yield _violation(
            "error", name, None, "too large to be searched", "results repositories refuse it: delete it"
        )
        return
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        yield _violation(
            "warning",
            name,
            None,
            "a binary file, not searched",
            "it may hold a secret: check its content yourself",
        )
        return
    for number, raw in _worth_reading(content, own):
        for text in _pieces(raw.decode("utf-8", errors="replace")):
            yield from line(text, name, number)
            if any(pattern.search(text) for pattern in own.values()):
                yield _violation(
                    "error", name, number, "the name of this machine", "write localhost or <host>"
                )


def _worth_reading(content: bytes, own: Mapping[bytes, re.Pattern[str]]) -> Iterator[tuple[int, bytes]]:
    """Yields the number and bytes of every line that may hold a secret, in order."""
    number, counted = 1, 0
    for start in sorted(_starts(content, own)):
        number, counted = number + content.count(b"\n", counted, start), start
        end = content.find(b"\n", start)
        yield number, content[start:] if end < 0 else content[start : end + 1]


def _starts(content: bytes, own: Collection[bytes]) -> set[int]:
    """Returns the offsets at which lines with an anchor or a name of this machine begin."""
    found: set[int] = set()
    lowered = content.lower()
    searched = [(lowered, anchor) for anchor in _ANCHORS]
    for text, anchor in [*searched, *((content, re.compile(re.escape(name))) for name in own)]:
        place = anchor.search(text)
        while place:
            found.add(content.rfind(b"\n", 0, place.start()) + 1)
            end = content.find(b"\n", place.end() - 1)
            place = anchor.search(text, end + 1) if end >= 0 else None
    return found


def _pieces(text: str) -> Iterator[str]:
    yield text[:_PIECE]
    for start in range(_PIECE, len(text), _PIECE - _OVERLAP):
        yield text[start - _OVERLAP : start + _PIECE - _OVERLAP]


def line(text: str, name: str, number: int) -> Iterator[Violation]:
    """Yields the secrets of one line. A violation states the place and the kind, never the secret itself."""
    told = [what for what, pattern in _PATTERNS.items() if pattern.search(text)]
    if not told and _password(text):
        told.append("a password or token")
    for what in told:
        yield _violation(
            "error", name, number, what, "it would be published: delete it and revoke the key or password"
        )
    if _private_address(text):
        yield _violation("error", name, number, "a private network address", "write localhost or <address>")
    if _private_host(text):
        yield _violation("error", name, number, "a private host name", "write localhost or <host>")
    if _HOME.search(text):
        message = "it names a person: write a relative path"
        yield _violation("warning", name, number, "a home directory", message)


def _password(text: str) -> bool:
    for pattern in (_QUOTED, _BARE, _INI, _PREFIXED):
        for match in pattern.finditer(text):
            value = match["value"]
            counts = value.isdigit() and "pass" not in match[0].lower()  # a number of tokens: `token: 128256`
            if re.search(r"[0-9!@%^&+]", value) and not counts and not _MEANS_NOTHING.search(value):
                return True
    return False


def _private_address(text: str) -> bool:
    for match in _IPV4.finditer(text):
        if not _VERSION.search(text[max(0, match.start() - 40) : match.start()]) and _is_private(match[1]):
            return True
    return _IPV6.search(text) is not None


def _is_private(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return (address.is_private or address in _SHARED) and not text.startswith(_HARMLESS)


def _private_host(text: str) -> bool:
    """Whether a text holds a name under a private domain.

    Code contains attributes like `module.internal`. So the name must hold a digit or a hyphen, or the text before it
    must say that it is a host.
    """
    for match in _HOST.finditer(text):
        before = text[max(0, match.start() - 24) : match.start()].lower()
        if re.search(r"[\d-]", match["host"]) or _NAMES_HOST.search(before):
            return True
    return False


def _violation(severity: str, name: str, number: int | None, what: str, message: str) -> Violation:
    return Violation(
        rule="secret", severity=severity, file=name, line=number, key=None, found=what, expected="none",
        message=message, section="everything that is submitted is published",
    )  # fmt: skip
