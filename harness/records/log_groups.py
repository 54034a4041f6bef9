"""Which logs a path on the command line means: a log, a directory of logs, a campaign, a package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import mllog, repository, runlog
from compliance.mllog import Parsed
from compliance.repository import ResultDirectory
from compliance.rule_input import Unreadable
from compliance.rules.submission_rules import RESULT
from compliance.runlog import RunLog
from harness.base.errors import UsageError
from harness.base.text import printable

_HEAD_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The logs of one directory: the runs of one submission.

    Args:
        kind: logs (named one by one), campaign, directory, or results (of a package).
        names: every entry of the directory.
        unreadable: result files that are no log; only a lenient reading has them.
    """

    directory: Path
    logs: tuple[Parsed, ...]
    kind: str = "logs"
    names: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def runs(self) -> tuple[RunLog, ...]:
        """What each log says of its run, in the order of the logs."""
        return tuple(runlog.build(log) for log in self.logs)

    @property
    def paths(self) -> list[Path]:
        return [Path(log.path) for log in self.logs]


def groups(paths: Sequence[str], *, lenient: bool = False) -> list[Group]:
    """Every log that the paths name, once, by directory.

    Args:
        lenient: a result file of a directory that is no log is kept as unreadable, not refused.

    Raises:
        UsageError: a path that is missing, empty, or no log.
    """
    files: dict[Path, list[Path]] = {}
    directories: dict[Path, str] = {}
    for name in paths:
        path = Path(name)
        for directory, kind, members in _named(path):
            known = files.setdefault(directory, [])
            known += [file for file in members if file not in known]
            if kind != "logs":
                directories[directory] = kind
    return [
        _group(directory, directories.get(directory, "logs"), members, lenient=lenient)
        for directory, members in files.items()
    ]


def group_of(place: ResultDirectory) -> Group:
    """The logs of one result directory of a package; what is no log is kept as unreadable."""
    return _group(place.path, "results", _numbered(place.path), lenient=True)


def _named(path: Path) -> list[tuple[Path, str, list[Path]]]:
    """Directory, kind and result files of everything that a path means."""
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file or directory")
    if not path.is_dir():
        return [(path.parent, "logs", [path])]
    if members := _numbered(path):
        inside = "results" if repository.holder(path) else "directory"
        return [(path, "campaign" if (path / "campaign.json").exists() else inside, members)]
    if places := repository.result_directories(path):
        return [(place.path, "results", _numbered(place.path)) for place in places]
    raise UsageError(f"{printable(path)}: found no result_<i>.txt{_hint(path)}")


def _numbered(directory: Path) -> list[Path]:
    found = [(match, file) for file in directory.iterdir() if (match := RESULT.fullmatch(file.name))]
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0][1]))]


def _hint(path: Path) -> str:
    if (path / "campaign.json").exists():
        return ": no run of this campaign has ended by the rules yet"
    if next(repository.organisations(path), None):
        return "; a whole results repository is checked with --all"
    below = sorted({file.parent for depth in (1, 2, 3) for file in path.glob("*/" * depth + "result_*.txt")})
    return f"; logs lie in {', '.join(printable(place) for place in below[:3])}" if below else ""


def _group(directory: Path, kind: str, members: Sequence[Path], *, lenient: bool) -> Group:
    logs: list[Parsed] = []
    unreadable: list[Unreadable] = []
    for path in members:
        reason = _unreadable(path)
        parsed = mllog.read(path) if reason is None else None
        if parsed is not None and not parsed.events and not parsed.malformed:
            reason = f"holds no MLLOG record (no line with '{mllog.TOKEN}')"
        if reason is None and parsed is not None:
            logs.append(parsed)
        elif lenient and kind != "logs":
            unreadable.append(Unreadable(path=str(path), reason=reason or ""))
        else:
            raise UsageError(f"{printable(path)}: {reason}")
        if kind == "results" and path.is_symlink():
            unreadable.append(Unreadable(path=str(path), reason="a symbolic link"))
    names = tuple(sorted(file.name for file in directory.iterdir())) if kind != "logs" else ()
    return Group(directory=directory, logs=tuple(logs), kind=kind, names=names, unreadable=tuple(unreadable))


def _unreadable(path: Path) -> str | None:
    if not path.is_file():
        return "not a file"
    try:
        with path.open("rb") as file:
            binary = b"\0" in file.read(_HEAD_BYTES)
    except PermissionError:
        return "cannot be read: permission denied"
    return "a binary file, not an MLLOG text log" if binary else None
