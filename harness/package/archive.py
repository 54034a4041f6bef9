"""Writes a deterministic archive of a tree and its checksums: equal files give equal bytes."""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
from pathlib import Path

from compliance.rules.tree_rules import CHECKSUMS

_CHUNK = 1 << 20
_ROW = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>\S.*)")  # the format of sha256sum
_OF_THE_TOOLS = re.compile(
    r"results/[^/]+/[^/]+/scaling\.json"
)  # the official package checker adds it; our rule C19 checks it
_LARGEST_BYTES = 64 << 20


def checksums(tree: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path inside the tree, without links and the list itself."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    names = {path.relative_to(tree).as_posix(): path for path in files}
    return {name: digest(path) for name, path in names.items() if name != CHECKSUMS}


def seal(tree: Path) -> None:
    """Write SHA256SUMS into the tree. `sha256sum -c SHA256SUMS` inside the tree checks every file."""
    rows = [f"{digest}  {name}\n" for name, digest in checksums(tree).items()]
    (tree / CHECKSUMS).write_text("".join(rows), encoding="utf-8")


def pack(tree: Path) -> Path:
    """Write <tree>.tar.gz beside the tree: sorted, without owners, times and modes of this machine."""
    archive = tree.with_name(tree.name + ".tar.gz")
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            tar.add(path, arcname=path.relative_to(tree.parent).as_posix(), filter=_plain)
    return archive


def differences(tree: Path) -> list[str] | None:
    """Differences between the tree and its SHA256SUMS; None where there is no such file."""
    path = tree / CHECKSUMS
    if path.is_symlink() or not path.is_file():
        return None
    if path.stat().st_size > _LARGEST_BYTES:
        return [f"{CHECKSUMS}: larger than {_LARGEST_BYTES >> 20} MiB"]
    lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    rows = [(number, _ROW.fullmatch(line)) for number, line in enumerate(lines, 1)]
    texts = [f"{CHECKSUMS}:{number}: no checksum" for number, row in rows if row is None]
    expected = {row["name"]: row["digest"] for _, row in rows if row}
    found = checksums(tree)
    both = sorted(expected.keys() & found.keys())
    texts += [f"{name}: changed" for name in both if expected[name] != found[name]]
    texts += [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    added = sorted(found.keys() - expected.keys())
    return texts + [f"{name}: not listed" for name in added if not _OF_THE_TOOLS.fullmatch(name)]


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            made.update(chunk)
    return made.hexdigest()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member
