"""Loads submissions: finds the logs that a path names, and reads them and the files beside them.

A path is a log, a directory of logs, a campaign, a package, or a directory with one of these below it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compliance import mllog, repository, runlog, scoring
from compliance.benchmark import BENCHMARK, PROXY
from compliance.mllog import Parsed
from compliance.repository import ResultDirectory
from compliance.rule_input import Unreadable
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.analysis import published_precision, side_files
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.contract import file_names
from harness.contract.attempt_rows import Proof
from harness.records import timing
from harness.records.timing import Timing

_HEAD_BYTES = 65536
_STATISTICS = "tracked_stats"  # keys that NVIDIA's and AMD's programs log at every step
_DEEPEST = 5  # directories below a path that are searched for logs


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultSet:
    """The logs of one directory: the runs of one submission.

    Args:
        runs: the run that each log describes.
        kind: logs (named one by one), campaign, directory, or results (of a package).
        names: every entry of the directory.
        unreadable: result files that are not logs; empty unless the reading was lenient.
    """

    directory: Path
    logs: tuple[Parsed, ...]
    runs: tuple[RunLog, ...]
    kind: str = "logs"
    names: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def paths(self) -> list[Path]:
        return [Path(log.path) for log in self.logs]


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """Runs of one system under one configuration.

    Args:
        runs: the scored runs, including those that crashed or did not converge; if there are more than ten, the
            median window.
        left_out: names of the logs that are outside this window.
        status: availability, from the system description.
        partial: for most runs only the first and the last two evaluations are known.
        origin: source of published logs that were not read from the round's own repository.
        retrieved: date on which the index read published logs, such as 2026-11-29.
    """

    name: str
    path: Path
    runs: tuple[RunLog, ...]
    org: str
    system: str
    accelerators: int | None  # None if no file states it
    precision: str  # of the linear layers, as disclosed; "unknown" if it is not disclosed
    timings: tuple[Timing, ...]  # one per run
    round: str | None = None  # from the name of a parent directory, such as v5.1
    reconstructed: bool = (
        False  # rebuilt from published key events: start-up unknown, evaluation time estimated
    )
    accelerator: str | None = None  # model name, from the system description
    framework: str | None = None
    campaign: Mapping[str, Any] | None = None
    proofs: tuple[Proof, ...] = ()  # one for each of `runs` that has a proof
    left_out: tuple[str, ...] = ()
    status: str | None = None
    partial: bool = False
    origin: str | None = None
    retrieved: str | None = None

    @property
    def benchmark(self) -> str:
        return printable(self.runs[0].benchmark or "unknown")

    @property
    def global_batch_size(self) -> int | None:
        return self.runs[0].global_batch_size

    @property
    def is_proxy(self) -> bool:
        return self.benchmark == PROXY.name

    @property
    def target(self) -> float:
        return scoring.target_of(self.runs[0])

    def point(self, key: str) -> Any:
        """Return the value of a log key in the first run; None if it is absent."""
        event = self.runs[0].points.get(key)
        return event.value if event is not None else None

    def scalar(self, key: str) -> str | int | float | None:
        """Return `point(key)` if it is a number or a text, else None: no hyperparameter has another type."""
        value = self.point(key)
        return printable(value) if isinstance(value, str) else value if type(value) in (int, float) else None


def load(path: Path) -> Submission:
    """Load the runs of the set of logs that a path names.

    Raises:
        UsageError: the path does not exist, or it holds no logs, several sets of logs, logs of several submissions,
            or no log with run_start and run_stop.
    """
    sets = result_sets([str(path)], without=_STATISTICS)
    if len(sets) > 1:
        names = ", ".join(_below(one.directory, path) for one in sets[:4])
        more = ", .." if len(sets) > 4 else ""
        raise UsageError(
            f"{printable(path)}: found {len(sets)} sets of logs ({names}{more}); allowed: one of them"
        )
    found = sets[0]
    require_one_submission(found)
    if all(run.run_start_ms is None or run.run_stop_ms is None for run in found.runs):
        said = f"{len(found.logs)} logs without run_start and run_stop"
        raise UsageError(
            f"{printable(path)}: found {said}; allowed: finished logs of {BENCHMARK.name} or its proxy"
        )
    return _built(path, found)


def require_one_submission(found: ResultSet) -> None:
    """Refuse logs that do not belong to one submission, because no score can combine them.

    Raises:
        UsageError: several benchmarks, global batch sizes or systems; the message names the logs of each.
    """
    for key in ("submission_benchmark", "global_batch_size", "submission_org", "submission_platform"):
        groups: dict[object, list[str]] = {}
        for run in found.runs:
            if key in run.points:  # a log without this key does not contradict the others
                groups.setdefault(repr(run.points[key].value), []).append(Path(run.path).name)
        if len(groups) > 1:
            named = "; ".join(f"{printable(value)}: {_few(names)}" for value, names in groups.items())
            raise UsageError(
                f"{printable(found.directory)}: found logs of several submissions, by {key} ({named}); "
                "allowed: the runs of one; name its logs, or keep the others in a directory of their own"
            )


def copies(runs: Sequence[RunLog]) -> tuple[tuple[str, ...], ...]:
    """Return groups of logs that have the same clock, seed and losses, by their file names."""
    known: dict[object, list[str]] = {}
    for run in runs:
        curve = tuple((one.time_ms, one.samples, one.log_perplexity) for one in run.evaluations)
        if curve:
            known.setdefault((run.run_start_ms, run.seed, curve), []).append(Path(run.path).name)
    return tuple(tuple(names) for names in known.values() if len(names) > 1)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _below(directory: Path, path: Path) -> str:
    return printable(directory.relative_to(path) if directory.is_relative_to(path) else directory)


def _built(path: Path, found: ResultSet) -> Submission:
    """Build the submission from its scored runs and from the files beside the logs."""
    directory = found.directory
    runs = _scored(found.runs)
    parsed = {log.path: log for log in found.logs}
    timings = tuple(timing.of(parsed[run.path]) for run in runs)
    campaign = side_files.campaign(directory)
    place = side_files.package_place(directory)
    system = side_files.system(place)
    first, stated = runs[0], side_files.stated_round(directory)
    rebuilt = side_files.is_reconstructed(directory)
    ours = place is not None and directory.resolve().name == BENCHMARK.name
    known = (
        published_precision.precision(stated, place.parents[1].name, place.name) if place and ours else None
    )
    return Submission(
        name=printable(_name(path, campaign)),
        path=path,
        runs=runs,
        org=printable(_text(system.get("submitter")) or first.submission_org or "unknown"),
        system=printable(system.get("system_name") or first.submission_platform or "unknown"),
        accelerators=side_files.accelerators(system, campaign, first),
        precision=printable(first.precision or known or "unknown"),
        timings=tuple(replace(one, init_ms=None) for one in timings) if rebuilt else timings,
        round=stated,
        reconstructed=rebuilt,
        accelerator=_text(system.get("accelerator_model_name")),
        framework=_text(system.get("framework")),
        status=_text(system.get("status")),
        campaign=campaign or None,
        proofs=side_files.proofs(directory, runs),
        left_out=tuple(
            sorted({Path(log.path).name for log in found.logs} - {Path(run.path).name for run in runs})
        ),
    )


def _scored(runs: tuple[RunLog, ...]) -> tuple[RunLog, ...]:
    """Return the runs of the scoring window; without a valid window return all, and the score reports the problem."""
    try:
        scored = {run.path for run in scoring.scored_runs(runs)}
    except ScoreError:
        return runs
    return tuple(run for run in runs if run.path in scored)


def _name(path: Path, campaign: Mapping[str, Any]) -> str:
    if campaign.get("arm"):
        return str(campaign["arm"])
    resolved = path.resolve()
    if resolved.is_file():
        return f"{resolved.parent.name}/{resolved.name}"
    return resolved.parent.name if resolved.name.startswith(BENCHMARK.name) else resolved.name


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def distinct(submissions: Sequence[Submission]) -> list[Submission]:
    """Return the submissions with unique names; two campaigns of one arm would both be called `mxfp4`."""
    named: list[Submission] = []
    for one in submissions:
        name = one.name
        if [other.name for other in submissions].count(name) > 1:
            name = f"{name} ({printable(_place(one.path))})"
        taken = {other.name for other in named}
        unused = (f"{name} #{number}" for number in itertools.count(2))
        named.append(replace(one, name=next(unused) if name in taken else name))
    return named


def _place(path: Path) -> str:
    """Return the last two parts of a path that identify the submission."""
    parts = [part for part in path.resolve().parts if part not in ("results", "runs", "/")]
    return "/".join((parts[:-1] if parts[-1].startswith(BENCHMARK.name) else parts)[-2:])


def result_sets(
    paths: Sequence[str], *, lenient: bool = False, without: str | None = None
) -> list[ResultSet]:
    """Read every log that the paths name, each once, grouped by directory.

    Args:
        lenient: list a result file that is not a log as unreadable instead of raising an error.
        without: key of records that the caller does not need; they are skipped.

    Raises:
        UsageError: a path does not exist, is empty, or is not a log.
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
        _set(directory, directories.get(directory, "logs"), members, lenient=lenient, without=without)
        for directory, members in files.items()
    ]


def result_set_of(place: ResultDirectory) -> ResultSet:
    """Read one result directory of a package; files that are not logs are listed as unreadable."""
    return _set(place.path, "results", result_files(place.path), lenient=True)


def _named(path: Path) -> list[tuple[Path, str, list[Path]]]:
    """Return directory, kind and result files of every set of logs that a path names."""
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file or directory")
    if not path.is_dir():
        return [(path.parent, "logs", [path])]
    if members := result_files(path):
        inside = "results" if repository.holder(path) else "directory"
        return [(path, "campaign" if (path / file_names.CAMPAIGN).exists() else inside, members)]
    if places := repository.result_directories(path):
        return [(place.path, "results", result_files(place.path)) for place in places]
    patterns = ("*/" * depth + file_names.RESULTS for depth in range(1, _DEEPEST + 1))
    below = sorted({file.parent for pattern in patterns for file in path.glob(pattern)})
    if len(below) == 1:
        return _named(below[0])
    raise UsageError(f"{printable(path)}: found {_nothing(path, below)}")


def result_files(directory: Path) -> list[Path]:
    """Return the files that the official tools read as logs, result_*.txt, sorted by number."""
    return sorted(directory.glob(file_names.RESULTS), key=_place_of)


def _place_of(file: Path) -> tuple[bool, int, str]:
    """Return a sort key that puts names without a number last."""
    index = file_names.result_index(file.name)
    return index is None, index or 0, file.name


def _nothing(path: Path, below: Sequence[Path]) -> str:
    """Describe why the path is not one set of logs, and name directories below it that are."""
    if (path / file_names.CAMPAIGN).exists():
        return "no result_<i>.txt: no run of this campaign has ended by the rules yet"
    if next(repository.organisations(path), None):
        return "no result_<i>.txt; a whole results repository is checked with --all"
    if not below:
        return "no result_<i>.txt"
    names = ", ".join(printable(place) for place in below[:3])
    more = ", .." if len(below) > 3 else ""
    return f"{len(below)} sets of logs ({names}{more}); allowed: one of them"


def _set(
    directory: Path, kind: str, members: Sequence[Path], *, lenient: bool, without: str | None = None
) -> ResultSet:
    logs: list[Parsed] = []
    unreadable: list[Unreadable] = []
    for path in members:
        reason = _unreadable(path)
        parsed = mllog.read(path, without=without) if reason is None else None
        if parsed is not None and not parsed.events and not parsed.malformed:
            reason = f"no MLLOG record (no line with '{mllog.TOKEN}')"
        if reason is None and parsed is not None:
            logs.append(parsed)
        elif lenient and kind != "logs":
            unreadable.append(Unreadable(path=str(path), reason=reason or ""))
        else:
            raise UsageError(f"{printable(path)}: {reason}")
        if kind == "results" and path.is_symlink():
            unreadable.append(Unreadable(path=str(path), reason="a symbolic link"))
    names = tuple(sorted(file.name for file in directory.iterdir())) if kind != "logs" else ()
    runs = tuple(runlog.build(log) for log in logs)
    if (
        kind != "results"
    ):  # in a package the directory names the benchmark; a log of another one breaks a rule
        _refuse_other_benchmarks(runs)
    return ResultSet(
        directory=directory,
        logs=tuple(logs),
        runs=runs,
        kind=kind,
        names=names,
        unreadable=tuple(unreadable),
    )


def _refuse_other_benchmarks(runs: Sequence[RunLog]) -> None:
    """Refuse logs if all belong to benchmarks other than llama31_8b and its proxy.

    A log that names no benchmark is accepted. If only some logs are of another benchmark, a rule reports them.
    """
    others = [run for run in runs if run.benchmark not in (None, BENCHMARK.name, PROXY.name)]
    if others and len(others) == len(runs):
        raise UsageError(
            f"{printable(others[0].path)}: a log of {printable(others[0].benchmark)}; "
            f"only {BENCHMARK.name} and {PROXY.name} are judged here"
        )


def _unreadable(path: Path) -> str | None:
    if not path.is_file():
        return "not a file"
    try:
        with path.open("rb") as file:
            binary = b"\0" in file.read(_HEAD_BYTES)
    except PermissionError:
        return "cannot be read: permission denied"
    return "a binary file, not an MLLOG text log" if binary else None
