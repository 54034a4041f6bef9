"""The public index: published llama31_8b submissions as derived numbers, for comparisons offline.

Each system has facts from its description and first log, and a digest of its logs. Each run has its seed, times and
evaluations. Names and hyperparameters are the only texts copied from logs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from compliance.benchmark import BENCHMARK
from compliance.mllog import Event
from compliance.runlog import Evaluation, RunLog
from harness.analysis import submission_loader
from harness.analysis.run_figures import HYPERPARAMETERS
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError, UserError
from harness.base.names import did_you_mean
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import file_names
from harness.contract.build import ConfigProblem, build
from harness.records.timing import Timing

SHIPPED = Path(__file__).parent / "public" / f"{BENCHMARK.name}.json"
_FORMAT = 1
POINTS = ("submission_division", "submission_status", "submission_platform", *HYPERPARAMETERS)
_KNOWN_OF_PARTIAL = 3  # evaluations: the first and the last two
_MOST_NAMED = 12  # candidates in an error message


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run in the index: a column per quantity, with one value per evaluation.

    Args:
        at_ms: time since run_start.
    """

    seed: int | None
    status: str | None
    run_ms: int
    init_ms: int | None
    evaluation_ms: int | None
    samples: tuple[int, ...]
    at_ms: tuple[int, ...]
    log_perplexity: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The path of the logs in their repository, and a digest of them in the order of the runs.

    Args:
        origin: source of the logs, if it is not the round's own repository.
        retrieved: date on which the index read them, such as 2026-11-21.
    """

    path: str
    sha256: str
    origin: str | None = None
    retrieved: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One submission in the index. The fields are the keys of the file, in the same order.

    Args:
        org, system: names of directories.
        system_name, submitter: from the system description or the log.
        points: log key -> value in the first run.
        status: availability, from the system description.
        partial: for most runs only the first and the last two evaluations are known.
    """

    round: str | None
    org: str
    system: str
    system_name: str
    accelerator: str | None
    accelerators: int | None
    framework: str | None
    precision: str
    submitter: str
    reconstructed: bool
    global_batch_size: int | None
    target: float
    points: Mapping[str, str | int | float]
    source: Source
    runs: tuple[Run, ...]
    status: str | None = None
    partial: bool = False

    @property
    def key(self) -> str:
        """round/organisation/system, unique in an index."""
        return f"{self.round or 'unknown round'}/{self.org}/{self.system}"

    def point(self, name: str) -> str | None:
        """Return a text value from the first log."""
        value = self.points.get(name)
        return value if isinstance(value, str) else None


def directories(tree: Path) -> Iterator[Path]:
    """Find every results directory of the benchmark in a repository or a folder of repositories."""
    yield from sorted(path for path in tree.glob(f"**/results/*/{BENCHMARK.name}") if path.is_dir())


def entry(directory: Path, *, origin: str | None = None) -> Entry:
    """Read the submission in a results directory.

    Args:
        origin: where the logs were read, where that was not the round's own repository.

    Raises:
        UsageError: no finished logs there.
    """
    loaded = submission_loader.load(directory)
    system, org = directory.resolve().parent.name, directory.resolve().parents[2].name
    stated = {key: loaded.scalar(key) for key in POINTS}
    return Entry(
        round=loaded.round,
        org=org,
        system=system,
        system_name=loaded.system,
        accelerator=loaded.accelerator,
        accelerators=loaded.accelerators,
        framework=loaded.framework,
        precision=loaded.precision,
        submitter=loaded.org,
        reconstructed=loaded.reconstructed,
        global_batch_size=loaded.global_batch_size,
        target=loaded.target,
        points={key: value for key, value in stated.items() if value is not None},
        source=Source(
            path=f"{org}/results/{system}/{BENCHMARK.name}",
            sha256=_digest(directory, [Path(run.path).name for run in loaded.runs]),
            origin=origin,
        ),
        runs=tuple(_run(run, timing) for run, timing in zip(loaded.runs, loaded.timings, strict=True)),
        status=loaded.status,
    )


def _digest(directory: Path, names: Sequence[str]) -> str:
    """Return a digest of the logs in the order of the runs, which identifies the source files."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()


def _run(run: RunLog, timing: Timing) -> Run:
    start = run.run_start_ms or 0
    return Run(
        seed=run.seed,
        status=run.run_status,
        run_ms=(run.run_stop_ms or 0) - start,
        init_ms=timing.init_ms,
        evaluation_ms=timing.evaluation_ms,
        samples=tuple(one.samples for one in run.evaluations),
        at_ms=tuple(one.time_ms - start for one in run.evaluations),
        log_perplexity=tuple(round(one.log_perplexity, 7) for one in run.evaluations),
    )


def document(entries: Sequence[Entry]) -> str:
    """Return the index as text, one line per run."""
    systems = []
    for one in entries:
        fields = asdict(one)
        rows = [json.dumps(run, separators=(",", ":")) for run in fields.pop("runs")]
        runs = ",\n  ".join(rows)
        systems.append(f'{json.dumps(fields, indent=1)[:-2]},\n "runs": [\n  {runs}\n ]\n}}')
    head = json.dumps(
        {"format": _FORMAT, "benchmark": BENCHMARK.name, "made_by": "results index", "systems": []}
    )
    return head[: -len("]}")] + "\n" + ",\n".join(systems) + "\n]}\n"


def read(
    path: Path = SHIPPED, *, wanted: Callable[[Mapping[str, object]], bool] = lambda _: True
) -> list[Entry]:
    """Read entries of an index.

    Args:
        wanted: selects entries by their JSON; building all takes a fifth of a second.

    Raises:
        UsageError: the file is not an index, or an entry has the wrong shape.
    """
    try:
        stamp = path.stat()
        version = (path, stamp.st_mtime_ns, stamp.st_size)
        found = [number for number, one in enumerate(_systems(*version)) if wanted(one)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{printable(path)}: no index of {BENCHMARK.name} results; "
            "write one with ./run.sh results index TREE --out FILE"
        ) from None
    return [_entry_at(*version, number) for number in found]


@lru_cache(maxsize=4)
def _systems(path: Path, modified_ns: int, size: int) -> list[Mapping[str, object]]:
    """Return the systems of one version of a file as JSON.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the file is not an index.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    systems: list[Mapping[str, object]] = content["systems"]
    known = content["format"] == _FORMAT and content["benchmark"] == BENCHMARK.name
    if not known or not all({"round", "org", "system", "runs"} <= one.keys() for one in systems):
        raise ValueError("another format")
    return systems


@lru_cache(maxsize=1024)
def _entry_at(path: Path, modified_ns: int, size: int, number: int) -> Entry:
    """Return one entry of one version of a file: a comparison reads the index several times."""
    one = _systems(path, modified_ns, size)[number]
    return _read(one, f"{one['org']}/{one['system']}")


def _read(content: object, name: str) -> Entry:
    try:
        one: Entry = build(Entry, content, "")
        if not one.runs:
            raise ConfigProblem("runs", "no runs", "at least one")
        for run in one.runs:
            if not len(run.samples) == len(run.at_ms) == len(run.log_perplexity):
                raise ConfigProblem("runs", "columns of different lengths", "a place for every evaluation")
    except ConfigProblem as problem:
        raise UsageError(
            f"index: {printable(name)}: found an entry of the wrong shape ({printable(problem)}); "
            "write it again with results index"
        ) from None
    return one


def find(entries: Sequence[Entry], name: str) -> Entry:
    """Return the only system whose key contains the name, in any case; a whole key or system name wins.

    Raises:
        UsageError: no system matches, or several do.
    """
    wanted = name.casefold()
    whole = [one for one in entries if wanted in (one.key.casefold(), one.system.casefold())]
    found = whole or [one for one in entries if wanted in one.key.casefold()]
    if len(found) == 1:
        return found[0]
    shown = printable(name)
    if not found:
        names_of_all = [text for one in entries for text in (one.system, one.key)]
        raise UsageError(
            f"--public: no system '{shown}'{did_you_mean(name, names_of_all)}; "
            f"./run.sh results list shows all {len(entries)}"
        )
    names = ", ".join(printable(one.key) for one in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise UsageError(f"--public: '{shown}' means {len(found)} systems: {names}{more}; name one of them")


def submission(one: Entry) -> Submission:
    """Return an entry as a submission, as if its logs had been read."""
    return Submission(
        name=printable(one.system),
        path=Path(one.key),
        runs=tuple(_runlog(one, number, run) for number, run in enumerate(one.runs)),
        org=printable(one.submitter),
        system=printable(one.system_name),
        accelerators=one.accelerators,
        precision=printable(one.precision),
        timings=tuple(Timing(init_ms=run.init_ms, evaluation_ms=run.evaluation_ms) for run in one.runs),
        round=_shown(one.round),
        reconstructed=one.reconstructed,
        accelerator=_shown(one.accelerator),
        framework=_shown(one.framework),
        status=_shown(one.status),
        partial=one.partial,
        origin=_shown(one.source.origin),
        retrieved=_shown(one.source.retrieved),
    )


def _shown(value: str | None) -> str | None:
    return None if value is None else printable(value)


def _runlog(one: Entry, number: int, run: Run) -> RunLog:
    stated = {**one.points, "target_accuracy": one.target}
    points = {
        name: Event(line=0, time_ms=0, event_type="POINT_IN_TIME", key=name, value=value, metadata={})
        for name, value in stated.items()
    }
    columns = list(zip(run.samples, run.at_ms, run.log_perplexity, strict=True))
    if one.partial and len(columns) == _KNOWN_OF_PARTIAL:
        columns = columns[
            1:
        ]  # no line from the first evaluation to the last two: what lies between is not known
    return RunLog(
        path=f"{one.source.path}/run {number}",
        benchmark=BENCHMARK.name,
        submission_org=one.submitter,
        submission_platform=one.point("submission_platform"),
        division=one.point("submission_division"),
        submission_status=one.point("submission_status"),
        run_status=run.status,
        seed=run.seed,
        global_batch_size=one.global_batch_size,
        init_start_ms=None,
        init_stop_ms=None,
        run_start_ms=0,
        run_stop_ms=run.run_ms,
        run_stop_samples=None,
        evaluations=tuple(
            Evaluation(line=0, time_ms=at, samples=samples, log_perplexity=loss)
            for samples, at, loss in columns
        ),
        points=MappingProxyType(points),
    )


def named(names: Sequence[str], path: Path = SHIPPED) -> list[Submission]:
    """Return submissions of an index by name."""
    entries = read(path) if names else []
    return [submission(find(entries, name)) for name in names]


def submissions(path: Path = SHIPPED) -> list[Submission]:
    """Return every submission of an index, with unique names."""
    return submission_loader.distinct([submission(one) for one in read(path)])


def parsed(trees: Sequence[Path], *, origin: str | None = None) -> list[Entry]:
    """Return the entries of all submissions below the trees, sorted by key.

    Submissions that cannot be read are named on stderr and skipped.

    Args:
        origin: where the logs were read, where that was not the round's own repository.

    Raises:
        UsageError: a tree does not exist, or no tree has a log of the benchmark.
    """
    found: dict[str, Entry] = {}
    for tree in trees:
        if not tree.is_dir():
            raise UsageError(f"{printable(tree)}: no such directory")
        for directory in directories(tree):
            try:
                one = entry(directory, origin=origin)
            except UserError as error:
                tell(f"left out: {error}")
                continue
            found[one.key] = one
    if not found:
        wanted = f"a repository with ORG/results/SYSTEM/{BENCHMARK.name}/{file_names.RESULTS}"
        raise UsageError(
            f"{', '.join(map(printable, trees))}: found no {BENCHMARK.name} logs; allowed: {wanted}"
        )
    return [found[key] for key in sorted(found)]
