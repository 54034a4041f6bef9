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
from harness.analysis import published_precision
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.records import attempt, timing
from harness.records.log_groups import Group, groups
from harness.records.timing import Timing


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
    timings: tuple[Timing, ...]  # one per run
    round: str | None = None  # from a directory v5.1 or v6.0.. above
    reconstructed: bool = (
        False  # rebuilt from published key events: start-up unknown, evaluation time estimated
    )
    accelerator: str | None = None  # model name, as the system description has it
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

    def scalar(self, key: str) -> str | int | float | None:
        """The same for a number or a short text; anything else is nobody's hyperparameter."""
        value = self.point(key)
        return printable(value) if isinstance(value, str) else value if type(value) in (int, float) else None


def load(path: Path) -> Submission:
    """Load the runs below a path.

    Raises:
        UsageError: nothing there, no logs, or logs without a single timed run.
    """
    group = _group(path)
    timed = [
        (run, timing.of(parsed))
        for run, parsed in zip(group.runs, group.logs, strict=True)
        if run.run_start_ms is not None and run.run_stop_ms is not None
    ]
    if not timed:
        found = f"{len(group.logs)} logs without run_start and run_stop"
        raise UsageError(
            f"{printable(path)}: found {found}; allowed: finished logs of llama31_8b or its proxy"
        )
    return _built(path, group.directory, tuple(run for run, _ in timed), tuple(one for _, one in timed))


def _built(path: Path, directory: Path, runs: tuple[RunLog, ...], timings: tuple[Timing, ...]) -> Submission:
    """The runs with what the files beside them say."""
    campaign = _json(directory / "campaign.json")
    place = _package_place(directory)
    system = _json(place.parents[1] / "systems" / f"{place.name}.json") if place else {}
    first, stated, rebuilt = runs[0], _round(directory), _is_reconstructed(directory)
    known = published_precision.precision(stated, place.parents[1].name, place.name) if place else None
    return Submission(
        name=printable(_name(path, campaign)),
        path=path,
        runs=runs,
        org=printable(_text(system.get("submitter")) or first.submission_org or "unknown"),
        system=printable(system.get("system_name") or first.submission_platform or "unknown"),
        accelerators=_accelerators(system, campaign, first),
        precision=printable(first.precision or known or "unknown"),
        timings=tuple(replace(one, init_ms=None) for one in timings) if rebuilt else timings,
        round=stated,
        reconstructed=rebuilt,
        accelerator=_text(system.get("accelerator_model_name")),
        framework=_text(system.get("framework")),
        campaign=campaign or None,
        proofs=tuple(filter(None, (_json(file) for file in _proof_files(directory, runs)))),
    )


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


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
    if path.is_dir() and not _logs(path):
        nested = sorted({file.parent for file in path.rglob("result_*.txt")})
        if len(nested) > 1:
            names = ", ".join(printable(folder.relative_to(path)) for folder in nested[:4])
            more = ", .." if len(nested) > 4 else ""
            raise UsageError(
                f"{printable(path)}: found {len(nested)} sets of logs ({names}{more}); allowed: one of them"
            )
        path = nested[0] if nested else path
    logs = _logs(path) if path.is_dir() else []
    return groups([str(file) for file in logs] or [str(path)])[0]


def _logs(directory: Path) -> list[Path]:
    """result_<i>.txt in the order of their numbers; published trees also count result_01, result_02 .."""
    found = [
        (int(name[1]), file)
        for file in directory.iterdir()
        if (name := re.fullmatch(r"result_(\d{1,6})\.txt", file.name))
    ]
    return [file for _, file in sorted(found)]


def _json(path: Path) -> dict[str, Any]:
    """A side file's content; these files may be missing or torn, the logs are what counts."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _package_place(directory: Path) -> Path | None:
    """<org>/results/<system> above the logs of a package."""
    above = directory.resolve()
    return next((folder for folder in (above, above.parent) if folder.parent.name == "results"), None)


def _accelerators(system: Mapping[str, Any], campaign: Mapping[str, Any], run: RunLog) -> int | None:
    """From the system description, the campaign's layout, or the layout that the log discloses."""
    try:
        return int(system["accelerators_per_node"]) * int(system["number_of_nodes"])
    except (KeyError, TypeError, ValueError):
        pass
    config = _mapping(campaign.get("config"))
    parallelism = _mapping(config.get("parallelism"))
    counts = [parallelism.get(key) for key in ("nodes", "gpus_per_node")]
    if str(config.get("benchmark", "")).endswith("_proxy"):
        return None
    if all(type(one) is int for one in counts):
        return math.prod(count for count in counts if count is not None)
    return _disclosed_accelerators(run)


def _disclosed_accelerators(run: RunLog) -> int | None:
    """Data parallelism (GBS / micro batch / accumulation) x tensor x pipeline x context parallelism."""
    names = ("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
    layout = [_integer_point(run, name) for name in names]
    micro, steps = (_integer_point(run, key) for key in ("micro_batch_size", "gradient_accumulation_steps"))
    if not micro or not steps or not run.global_batch_size or not all(layout):
        return None
    return run.global_batch_size // (micro * steps) * math.prod(one for one in layout if one) or None


def _integer_point(run: RunLog, key: str) -> int | None:
    event = run.points.get(key)
    return runlog.integer(event.value) if event else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _round(directory: Path) -> str | None:
    for part in reversed(directory.resolve().parts):
        if found := re.match(r"(?:training_results_)?v(\d+\.\d+)", part):
            return f"v{found[1]}"
    return None


def _is_reconstructed(directory: Path) -> bool:
    return any(part.endswith("-reconstructed") for part in directory.resolve().parts)


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
