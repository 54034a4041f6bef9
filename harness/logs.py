"""Which logs a path on the command line means: a log, a directory of logs, a campaign."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import mllog
from compliance.mllog import Parsed
from harness.errors import UsageError

_RESULT = re.compile(r"result_(\d+)\.txt")
_HEAD_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The logs of one directory: the runs of one submission."""

    directory: Path
    logs: tuple[Parsed, ...]

    @property
    def paths(self) -> list[Path]:
        return [Path(log.path) for log in self.logs]


def groups(paths: Sequence[str]) -> list[Group]:
    """Every log that the paths name, once, by directory.

    Raises:
        UsageError: a path that is missing, empty, or no log.
    """
    found: dict[Path, list[Path]] = {}
    for name in paths:
        for path in _results(Path(name)):
            known = found.setdefault(path.parent, [])
            if path not in known:
                known.append(path)
    return [
        Group(directory=directory, logs=tuple(_parsed(path) for path in files))
        for directory, files in found.items()
    ]


def _results(path: Path) -> list[Path]:
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file or directory")
    if not path.is_dir():
        return [path]
    numbered = [(match, file) for file in path.iterdir() if (match := _RESULT.fullmatch(file.name))]
    if not numbered:
        raise UsageError(f"{printable(path)}: found no result_<i>.txt{_hint(path)}")
    return [file for _, file in sorted(numbered, key=lambda pair: int(pair[0][1]))]


def _hint(path: Path) -> str:
    if (path / "campaign.json").exists():
        return ": no run of this campaign has ended by the rules yet"
    below = sorted({file.parent for depth in (1, 2, 3) for file in path.glob("*/" * depth + "result_*.txt")})
    return f"; logs lie in {', '.join(printable(place) for place in below[:3])}" if below else ""


def _parsed(path: Path) -> Parsed:
    if not path.is_file():
        raise UsageError(f"{printable(path)}: not a file")
    with path.open("rb") as file:
        if b"\0" in file.read(_HEAD_BYTES):
            raise UsageError(f"{printable(path)}: a binary file, not an MLLOG text log")
    parsed = mllog.read(path)
    if not parsed.events and not parsed.malformed:
        raise UsageError(f"{printable(path)}: holds no MLLOG record (no line with '{mllog.TOKEN}')")
    return parsed


def printable(content: object, limit: int = 200) -> str:
    """Text of a log as a terminal may show it: control, bidirectional and half characters as escapes."""
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(content)[:limit]
    )
    return text + (" .." if len(str(content)) > limit else "")
