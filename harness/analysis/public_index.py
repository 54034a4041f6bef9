"""The public index: published llama31_8b submissions as derived numbers, so that anybody compares with them offline.

Per system what its description and first log disclose, a digest of the logs it was made from; per run the seed,
times and every evaluation. No text of a log but names and hyperparameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compliance.benchmark import BENCHMARK
from compliance.mllog import Event
from compliance.runlog import Evaluation, RunLog
from harness.analysis import submission_loader
from harness.analysis.run_figures import HYPERPARAMETERS
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError, UserError
from harness.base.stderr import tell
from harness.base.text import printable
from harness.records.timing import Timing

SHIPPED = Path(__file__).parent / "public" / f"{BENCHMARK.name}.json"
_FORMAT = 1
_POINTS = ("submission_division", "submission_status", "submission_platform", *HYPERPARAMETERS)
_MOST_NAMED = 12  # candidates in an error message


def directories(tree: Path) -> Iterator[Path]:
    """Every results directory of the benchmark in a repository, or in a folder of repositories."""
    yield from sorted(path for path in tree.glob(f"**/results/*/{BENCHMARK.name}") if path.is_dir())


def entry(directory: Path) -> dict[str, Any]:
    """One submission as the index keeps it.

    Raises:
        UsageError: no finished logs there.
    """
    loaded = submission_loader.load(directory)
    system, org = directory.resolve().parent.name, directory.resolve().parents[2].name
    return {
        "round": loaded.round,
        "org": org,
        "system": system,
        "system_name": loaded.system,
        "accelerator": loaded.accelerator,
        "accelerators": loaded.accelerators,
        "framework": loaded.framework,
        "precision": loaded.precision,
        "submitter": loaded.org,
        "reconstructed": loaded.reconstructed,
        "global_batch_size": loaded.global_batch_size,
        "target": loaded.target,
        "points": {key: loaded.scalar(key) for key in _POINTS if loaded.scalar(key) is not None},
        "source": {
            "path": f"{org}/results/{system}/{BENCHMARK.name}",
            "sha256": _digest(directory, [Path(run.path).name for run in loaded.runs]),
        },
        "runs": [_run(run, timing) for run, timing in zip(loaded.runs, loaded.timings, strict=True)],
    }


def _digest(directory: Path, names: Sequence[str]) -> str:
    """Of the logs in the order of the runs: says which files the numbers are from."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()


def _run(run: RunLog, timing: Timing) -> dict[str, Any]:
    start = run.run_start_ms or 0
    return {
        "seed": run.seed,
        "status": run.run_status,
        "run_ms": (run.run_stop_ms or 0) - start,
        "init_ms": timing.init_ms,
        "evaluation_ms": timing.evaluation_ms,
        "samples": [one.samples for one in run.evaluations],
        "at_ms": [one.time_ms - start for one in run.evaluations],
        "log_perplexity": [round(one.log_perplexity, 7) for one in run.evaluations],
    }


def document(entries: Sequence[dict[str, Any]]) -> str:
    """The index as text, one line a run."""
    systems = []
    for one in entries:
        head = json.dumps({key: value for key, value in one.items() if key != "runs"}, indent=1)
        runs = ",\n  ".join(json.dumps(run, separators=(",", ":")) for run in one["runs"])
        systems.append(f'{head[:-2]},\n "runs": [\n  {runs}\n ]\n}}')
    head = json.dumps(
        {"format": _FORMAT, "benchmark": BENCHMARK.name, "made_by": "results index", "systems": []}
    )
    return head[: -len("]}")] + "\n" + ",\n".join(systems) + "\n]}\n"


def read(path: Path = SHIPPED) -> list[dict[str, Any]]:
    """Entries of an index.

    Raises:
        UsageError: a file that is no index.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"] == _FORMAT and content["benchmark"] == BENCHMARK.name
        if known and all({"round", "org", "system", "runs"} <= one.keys() for one in content["systems"]):
            return list(content["systems"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UsageError(
        f"{printable(path)}: no index of {BENCHMARK.name} results; "
        "write one with ./run.sh results index TREE --out FILE"
    )


def key(one: dict[str, Any]) -> str:
    """round/organisation/system, unique in an index."""
    return f"{one['round'] or 'unknown round'}/{one['org']}/{one['system']}"


def find(entries: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one system whose key contains the name, in capitals or not; a whole key or system name wins.

    Raises:
        UsageError: none or several.
    """
    wanted = name.casefold()
    whole = [one for one in entries if wanted in (key(one).casefold(), str(one["system"]).casefold())]
    found = whole or [one for one in entries if wanted in key(one).casefold()]
    if len(found) == 1:
        return found[0]
    shown = printable(name)
    if not found:
        raise UsageError(
            f"--public: found no system named '{shown}'; ./run.sh results list shows the {len(entries)} there are"
        )
    names = ", ".join(printable(key(one)) for one in found[:_MOST_NAMED])
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise UsageError(f"--public: '{shown}' means {len(found)} systems: {names}{more}; name one of them")


def submission(one: dict[str, Any]) -> Submission:
    """An entry as if its logs had been read.

    Raises:
        UsageError: an entry of the wrong shape.
    """
    try:
        runs = tuple(_runlog(one, number, run) for number, run in enumerate(one["runs"]))
        if not runs:
            raise ValueError("no runs")
        timings = tuple(
            Timing(init_ms=run["init_ms"], evaluation_ms=run["evaluation_ms"]) for run in one["runs"]
        )
        return Submission(
            name=printable(one["system"]),
            path=Path(key(one)),
            runs=runs,
            org=printable(one["submitter"]),
            system=printable(one["system_name"]),
            accelerators=None if one["accelerators"] is None else int(one["accelerators"]),
            precision=printable(one["precision"]),
            timings=timings,
            round=_shown(one["round"]),
            reconstructed=bool(one["reconstructed"]),
            accelerator=_shown(one["accelerator"]),
            framework=_shown(one["framework"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = printable(f"{one['org']}/{one['system']}")
        raise UsageError(
            f"index: {name}: found an entry of the wrong shape ({printable(error)}); write it again with results index"
        ) from None


def _shown(value: str | None) -> str | None:
    return None if value is None else printable(value)


def _runlog(one: dict[str, Any], number: int, run: dict[str, Any]) -> RunLog:
    stated = {**one["points"], "target_accuracy": one["target"]}
    points = {
        name: Event(line=0, time_ms=0, event_type="POINT_IN_TIME", key=name, value=value, metadata={})
        for name, value in stated.items()
    }
    columns = zip(run["samples"], run["at_ms"], run["log_perplexity"], strict=True)
    return RunLog(
        path=f"{one['source']['path']}/run {number}",
        benchmark=BENCHMARK.name,
        submission_org=one["submitter"],
        submission_platform=one["points"].get("submission_platform"),
        division=one["points"].get("submission_division"),
        submission_status=one["points"].get("submission_status"),
        run_status=run["status"],
        seed=run["seed"],
        global_batch_size=one["global_batch_size"],
        init_start_ms=None,
        init_stop_ms=None,
        run_start_ms=0,
        run_stop_ms=run["run_ms"],
        run_stop_samples=None,
        evaluations=tuple(
            Evaluation(line=0, time_ms=at, samples=samples, log_perplexity=loss)
            for samples, at, loss in columns
        ),
        points=MappingProxyType(points),
    )


def named(names: Sequence[str], path: Path = SHIPPED) -> list[Submission]:
    """Submissions of an index by name."""
    entries = read(path) if names else []
    return [submission(find(entries, name)) for name in names]


def parsed(trees: Sequence[Path]) -> list[dict[str, Any]]:
    """Entries of every submission below the trees, in the order of their keys.

    What cannot be read is named on stderr and left out.

    Raises:
        UsageError: no such tree, or no log of the benchmark in any of them.
    """
    found: dict[str, dict[str, Any]] = {}
    for tree in trees:
        if not tree.is_dir():
            raise UsageError(f"{printable(tree)}: no such directory")
        for directory in directories(tree):
            try:
                one = entry(directory)
            except UserError as error:
                tell(f"left out: {error}")
                continue
            found[key(one)] = one
    if not found:
        wanted = f"a repository with ORG/results/SYSTEM/{BENCHMARK.name}/result_*.txt"
        raise UsageError(
            f"{', '.join(map(printable, trees))}: found no {BENCHMARK.name} logs; allowed: {wanted}"
        )
    return [found[key] for key in sorted(found)]
