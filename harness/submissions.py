"""A submission, loaded from wherever its logs lie: a campaign, a directory of logs, a package's results, one log."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compliance import runlog
from compliance.runlog import RunLog
from harness import attempt
from harness.errors import UsageError
from harness.logs import Group, groups, printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """Runs of one system under one configuration."""

    name: str
    path: Path
    runs: tuple[RunLog, ...]
    org: str
    system: str
    accelerators: int | None  # None where nothing says
    precision: str  # of the linear layers, as disclosed; "unknown" where it is not
    round: str | None = None  # from a directory v5.1 or v6.0.. above
    framework: str | None = None
    campaign: Mapping[str, Any] | None = None
    proofs: tuple[Mapping[str, Any], ...] = field(default=())  # proof.json, of those of `runs` that have one

    @property
    def benchmark(self) -> str:
        return printable(self.runs[0].benchmark or "unknown")

    @property
    def global_batch_size(self) -> int | None:
        return self.runs[0].global_batch_size

    @property
    def is_proxy(self) -> bool:
        return self.benchmark.endswith("_proxy")

    @property
    def target(self) -> float:
        return self.runs[0].target

    def point(self, key: str) -> Any:
        """Value of a log key in the first run, None where it is absent."""
        event = self.runs[0].points.get(key)
        return event.value if event is not None else None


def load(path: Path) -> Submission:
    """Load the runs below a path.

    Raises:
        UsageError: nothing there, no logs, or logs without a single timed run.
    """
    group = _group(path)
    runs = tuple(runlog.build(parsed) for parsed in group.logs)
    timed = tuple(run for run in runs if run.run_start_ms is not None and run.run_stop_ms is not None)
    if not timed:
        found = f"{len(runs)} logs without run_start and run_stop"
        raise UsageError(f"{path}: found {found}; allowed: finished logs of llama31_8b or its proxy")
    directory = group.directory
    campaign = _json(directory / "campaign.json")
    system = _system_description(directory)
    first = timed[0]
    return Submission(
        name=printable(_name(path, campaign)),
        path=path,
        runs=timed,
        org=printable(first.submission_org or "unknown"),
        system=printable(system.get("system_name") or first.submission_platform or "unknown"),
        accelerators=_accelerators(system, campaign),
        precision=printable(first.precision or "unknown"),
        round=_round(directory),
        framework=printable(system["framework"]) if system.get("framework") else None,
        campaign=campaign or None,
        proofs=tuple(filter(None, (_json(file) for file in _proof_files(directory, timed)))),
    )


def distinct(submissions: Sequence[Submission]) -> list[Submission]:
    """The same submissions under names that tell them apart: two campaigns of one arm are both called `mxfp4`."""
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
    """The last two parts of a path that say whose logs these are."""
    parts = [part for part in path.resolve().parts if part not in ("results", "runs", "/")]
    return "/".join((parts[:-1] if parts[-1].startswith("llama31_8b") else parts)[-2:])


def _group(path: Path) -> Group:
    """The one set of logs at or below a path."""
    if path.is_dir() and not any(path.glob("result_*.txt")):
        nested = sorted({file.parent for file in path.rglob("result_*.txt")})
        if len(nested) > 1:
            names = ", ".join(printable(folder.relative_to(path)) for folder in nested[:4])
            more = ", .." if len(nested) > 4 else ""
            raise UsageError(
                f"{path}: found {len(nested)} sets of logs ({names}{more}); allowed: one of them"
            )
        path = nested[0] if nested else path
    return groups([str(path)])[0]


def _json(path: Path) -> dict[str, Any]:
    """A side file's content; these files may be missing or torn, the logs are what counts."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _system_description(directory: Path) -> dict[str, Any]:
    """systems/<system>.json of a package, for <org>/results/<system>/llama31_8b."""
    for folder in (directory, directory.parent):
        if folder.parent.name == "results":
            return _json(folder.parent.parent / "systems" / f"{folder.name}.json")
    return {}


def _accelerators(system: Mapping[str, Any], campaign: Mapping[str, Any]) -> int | None:
    try:
        return int(system["accelerators_per_node"]) * int(system["number_of_nodes"])
    except (KeyError, TypeError, ValueError):
        pass
    config = _mapping(campaign.get("config"))
    parallelism = _mapping(config.get("parallelism"))
    counts = [parallelism.get(key) for key in ("nodes", "gpus_per_node")]
    if str(config.get("benchmark", "")).endswith("_proxy") or not all(type(one) is int for one in counts):
        return None
    return math.prod(count for count in counts if count is not None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _round(directory: Path) -> str | None:
    for part in reversed(directory.resolve().parts):
        if found := re.match(r"(?:training_results_)?v(\d+\.\d+)", part):
            return f"v{found[1]}"
    return None


def _name(path: Path, campaign: Mapping[str, Any]) -> str:
    if campaign.get("arm"):
        return str(campaign["arm"])
    resolved = path.resolve()
    if resolved.is_file():
        return f"{resolved.parent.name}/{resolved.name}"
    return resolved.parent.name if resolved.name.startswith("llama31_8b") else resolved.name


def _proof_files(directory: Path, runs: Sequence[RunLog]) -> list[Path]:
    """proof.json of the last attempt at each of these runs; only a log that was promoted is result_<i>.txt."""
    found = []
    for run in runs:
        attempts = attempt.directories(directory / Path(run.path).stem.replace("result_", "run_"))
        found += [path / "proof.json" for path in attempts[-1:]]
    return found
