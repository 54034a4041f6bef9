"""A deterministic archive of a tree with its checksums: the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from pathlib import Path

_CHUNK = 1 << 20


def checksums(tree: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path from the tree's parent."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    return {path.relative_to(tree.parent).as_posix(): _sha256(path) for path in files}


def write(tree: Path) -> tuple[Path, Path]:
    """<tree>.tar.gz and <tree>.sha256 beside the tree: sorted, without owners, times and modes of this machine."""
    sums, archive = tree.with_name(tree.name + ".sha256"), tree.with_name(tree.name + ".tar.gz")
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            tar.add(path, arcname=path.relative_to(tree.parent).as_posix(), filter=_plain)
    rows = {**checksums(tree), archive.name: _sha256(archive)}
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in rows.items()), encoding="utf-8")
    return archive, sums


def differences(tree: Path) -> list[str] | None:
    """Files that are not as <tree>.sha256 says; None where there is no such file."""
    path = tree.with_name(tree.name + ".sha256")
    if not path.exists():
        return None
    rows = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines() if "  " in line]
    expected = {name: digest for digest, name in rows if name.startswith(f"{tree.name}/")}
    found = checksums(tree)
    texts = [
        f"{name}: changed" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]
    ]
    texts += [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    return texts + [f"{name}: not listed" for name in sorted(found.keys() - expected.keys())]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
