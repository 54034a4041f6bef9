"""Rules that compare the logs with the submitted code: C11, C19 and C23."""

from __future__ import annotations

from collections.abc import Iterator

from compliance.benchmark import BENCHMARK
from compliance.rule import rule
from compliance.rule_input import Case, Finding, PackagedSubmission
from compliance.runlog import integer, text

_SCRIPTS = ("setup.sh", "init_datasets.sh", "run_and_time.sh")
_MOST = 3  # files named in a message


@rule(
    "C23",
    source="submission_rules, benchmarks/. A warning, because some results are published without their code.",
    breaks="a tree without benchmarks/ (warning).",
)
def code_is_here(packaged: PackagedSubmission) -> Iterator[Finding]:
    """The submitted code is in the package, so that the logs can be compared with it."""
    if packaged.sources is None:
        message = "without the code, config_filename, metadata.file and the scripts are not checked: add benchmarks/"
        yield packaged.submission.warning(None, "a tree without benchmarks/", "the submitted code", message)


@rule(
    "C11",
    source="mlperf-logging, common.yaml (config_filename, v6.1); submission_rules, benchmarks/.",
    breaks="config_filename conf/train.yaml without train.yaml in benchmarks/; ../train.yaml; an empty train.yaml.",
)
def config_exists(packaged: PackagedSubmission) -> Iterator[Finding]:
    """config_filename names a file of the package that is not empty."""
    for case in packaged.submission.cases if packaged.sources is not None else ():
        point = case.log.points.get("config_filename")
        value = text(point.value) if point else None
        if point is None or not value:
            continue
        named = [source for source in packaged.sources or () if source.name == _name(value)]
        if not named:
            message = "the configuration file is missing: add it under benchmarks/"
            yield case.error(point, value, "a file under benchmarks/", message)
        elif ".." in value.split("/"):
            message = "the configuration file lies outside the submission: add it under benchmarks/"
            yield case.error(point, value, "a path inside benchmarks/", message)
        elif all(source.blank for source in named):
            message = "the submitted configuration file is empty: submit the one that was used"
            yield case.error(point, value, f"{named[0].path} with content", message)


@rule(
    "C23",
    source="mlperf-logging README (metadata.file and lineno name the caller); submission_rules, benchmarks/.",
    breaks="metadata.file train.py without train.py in benchmarks/; lineno 900 of a file with 80 lines (warning).",
)
def callers(packaged: PackagedSubmission) -> Iterator[Finding]:
    """The submitted code is the code that wrote the logs."""
    if packaged.sources is None:
        return
    lines: dict[str, int] = {}
    for source in packaged.sources:
        lines[source.name] = max(lines.get(source.name, 0), source.lines or 0)
    absent: dict[str, tuple[Case, int]] = {}
    beyond: set[str] = set()
    for case in packaged.submission.cases:
        for file, line in _last_lines(case).items():
            name = _name(file)
            if name not in lines:
                absent.setdefault(file, (case, line))
            elif line > lines[name] and name not in beyond:
                beyond.add(name)
                message = "the submitted file is shorter, so another version of it wrote the log: submit that version"
                found, expected = f"{file}:{line}", f"at most line {lines[name]}"
                yield case.warning("metadata.lineno", found, expected, message)
    if absent:
        names = ", ".join(list(absent)[:_MOST]) + (", .." if len(absent) > _MOST else "")
        message = (
            "the log names source files that are not submitted: submit them, unless they belong to a library"
        )
        case = next(iter(absent.values()))[0]
        yield case.warning("metadata.file", names, "files under benchmarks/", message)


def _last_lines(case: Case) -> dict[str, int]:
    """Returns the highest line number of each file that logged a record."""
    found: dict[str, int] = {}
    for event in case.parsed.events:
        file, line = event.metadata.get("file"), integer(event.metadata.get("lineno"))
        if isinstance(file, str) and file:
            found[file] = max(found.get(file, 0), line or 0)
    return found


def caller_names(cases: tuple[Case, ...]) -> set[str]:
    """Returns the names of the files that logged the records and of the configuration files."""
    files = {file for case in cases for file in _last_lines(case)}
    points = [case.log.points.get("config_filename") for case in cases]
    return {_name(value) for value in (*files, *(text(point.value) or "" for point in points if point))}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


@rule(
    "C19",
    source="submission_rules, benchmarks/. A warning: 1 of 12 organisations of v5.1 has setup.sh and init_datasets.sh.",
    breaks="no run_and_time.sh; no box_ours.json for a system named box and an implementation named ours (warning).",
)
def scripts(packaged: PackagedSubmission) -> Iterator[Finding]:
    """The package holds the scripts that repeat a result and the file <system>_<implementation>.json."""
    if packaged.sources is None:
        return
    mine = [one for one in packaged.sources if one.path.startswith(f"benchmarks/{BENCHMARK.name}/")]
    names, folders = {source.name for source in mine}, [source.path.split("/") for source in mine]
    codes = {parts[3] for parts in folders if parts[2] == "implementations" and len(parts) > 4}
    joined = [f"{packaged.system}_{code}.json" for code in sorted(codes)]
    missing = [name for name in _SCRIPTS if name not in names]
    if joined and not names.intersection(joined):
        missing.append(joined[0])
    if missing:
        message = "files that a reviewer needs to repeat the result are missing: add them under benchmarks/"
        yield packaged.submission.warning(
            None, f"no {', '.join(missing)}", "scripts and system json", message
        )
