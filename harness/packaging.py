"""What goes into a submission tree, written below a directory that nobody else sees yet."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from compliance import mllog, runlog, score
from compliance.score import ScoreError
from harness import atomic
from harness.campaign import Campaign
from harness.config import to_mapping
from harness.errors import UsageError
from harness.paths import ROOT
from harness.system import Field, describe

SOURCES = ("harness", "submission", "kernels", "compliance", "benchmark.yaml", "run.sh", "requirements.txt",
            "pyproject.toml", "LICENSE", "README.md")  # fmt: skip
_RUNS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A campaign that can be submitted.

    Args:
        scored: indices of the ten runs that are scored, in the order of their start.
        proofs: proof.json of each run; recorded: environment.json of the first.
    """

    campaign: Campaign
    scored: tuple[int, ...]
    proofs: tuple[Mapping[str, Any], ...]
    recorded: Mapping[str, Any]

    @property
    def system(self) -> str:
        return f"{self.campaign.config.system.name}_{self.campaign.arm}"


def source_of(campaign: Campaign) -> Source:
    """A campaign's submittable part.

    Raises:
        UsageError: the first reason why it is none.
    """
    place = campaign.directory
    if campaign.config.profile == "proxy":
        raise UsageError(f"{place}: found the profile proxy; a proxy run is no result; allowed: llama31_8b")
    open_runs = [run.index for run in campaign.runs if run.state != "promoted"]
    if open_runs or len(campaign.runs) < _RUNS:
        have = len(campaign.runs) - len(open_runs)
        raise UsageError(
            f"{place}: found {have} finished runs of {len(campaign.runs)}; a submission has at least {_RUNS}; "
            "./run.sh resume finishes them"
        )
    attempts = [campaign.last_attempt(run.index) for run in campaign.runs]
    proofs = tuple(_read(path, "proof.json") for path in attempts)
    recorded = [_read(path, "environment.json") for path in attempts]
    for run, proof in zip(campaign.runs, proofs, strict=True):
        _require_native(campaign, run.index, proof)
    _require_one_commit(place, recorded)
    return Source(campaign=campaign, scored=_scored(campaign), proofs=proofs, recorded=recorded[0])


def _read(attempt: Path | None, name: str) -> Mapping[str, Any]:
    document = atomic.read_json(attempt / name) if attempt else None
    if not isinstance(document, dict):
        raise UsageError(
            f"{attempt}: found no {name}; a run without it proves nothing and cannot be submitted"
        )
    return document


def _require_native(campaign: Campaign, index: int, proof: Mapping[str, Any]) -> None:
    """In the closed division every GEMM ran on hardware that has its format."""
    rows = [row for row in proof.get("gemms", ()) if isinstance(row, dict)]
    if not rows or not proof.get("verified"):
        raise UsageError(f"{campaign.result(index)}: proof.json proves no GEMM; it cannot be submitted")
    found = sorted({str(row.get("backend")) for row in rows} - {"native"})
    if found and campaign.config.system.division == "closed":
        raise UsageError(
            f"{campaign.result(index)}: found {', '.join(found)} GEMMs in the closed division; allowed: native; "
            "emulated runs go into the open division (system.division: open)"
        )


def _require_one_commit(place: Path, recorded: Sequence[Mapping[str, Any]]) -> None:
    """What is packed as sources is what ran."""
    git = [one.get("git") or {} for one in recorded]
    commits = {one.get("commit") for one in git}
    if None in commits or len(commits) != 1:
        raise UsageError(
            f"{place}: found runs of {len(commits)} commits, or outside git; allowed: one commit for all"
        )
    if any(one.get("dirty") for one in git):
        raise UsageError(f"{place}: the runs ran with changes that no commit holds; commit first, then run")
    head, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *SOURCES)
    if head != next(iter(commits)):
        raise UsageError(
            f"{ROOT}: found commit {head[:12]}, the runs are of {str(next(iter(commits)))[:12]}; check that one out"
        )
    if changes:
        raise UsageError(
            f"{ROOT}: found uncommitted changes ({changes.split()[-1]}); allowed: none, the sources are packed"
        )


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _scored(campaign: Campaign) -> tuple[int, ...]:
    """All ten runs, or of more the median window in the order of their start (training_rules, Benchmark Results)."""
    logs = {run.index: runlog.build(mllog.read(campaign.result(run.index))) for run in campaign.runs}
    order = sorted(logs, key=lambda index: logs[index].run_start_ms or 0)
    if len(order) == _RUNS:
        return tuple(order)
    try:
        window = score.median_window([score.run_result_s(logs[index]) for index in order])
    except ScoreError as error:
        raise UsageError(f"{campaign.directory}: {error}") from None
    return tuple(order[place] for place in window)


def write(sources: Sequence[Source], tree: Path, given: Mapping[str, str]) -> dict[str, dict[str, Field]]:
    """Write the tree of one organisation.

    Returns:
        Every system's description with the origin of each field.
    """
    described = {}
    for source in sources:
        benchmark = source.campaign.config.benchmark
        fields = describe(source.campaign.config, source.recorded, given)
        described[source.system] = fields
        path = tree / "systems" / f"{source.system}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({k: f.value for k, f in fields.items()}, indent=4) + "\n", encoding="utf-8"
        )
        results = tree / "results" / source.system / benchmark
        results.mkdir(parents=True)
        for number, index in enumerate(source.scored):
            shutil.copyfile(source.campaign.result(index), results / f"result_{number}.txt")
        _implementation(
            source, tree / "benchmarks" / benchmark / "implementations" / f"fourmark_{source.campaign.arm}"
        )
    return described


def _implementation(source: Source, place: Path) -> None:
    """README, Dockerfile, configuration, sources and, of more than ten runs, the logs that are not scored."""
    for name in _git("ls-files", "--", *SOURCES).splitlines():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    campaign = source.campaign
    (place / "resolved_config.json").write_text(
        json.dumps(to_mapping(campaign.config), indent=2) + "\n", encoding="utf-8"
    )
    (place / "proof.json").write_text(json.dumps(source.proofs[0], indent=1) + "\n", encoding="utf-8")
    packages = source.recorded.get("packages") or {}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "harness" / "templates"), undefined=jinja2.StrictUndefined
    )
    values = {
        "submitter": campaign.config.system.submitter,
        "system": campaign.config.system.name,
        "benchmark": campaign.config.benchmark,
        "arm": campaign.arm,
        "runs": len(campaign.runs),
        "config": campaign.config,
        "commit": (source.recorded.get("git") or {}).get("commit"),
        "recipe_name": campaign.config.arms[campaign.arm].recipe,
        "gemms": _kinds(source.proofs[0]),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()) or "not recorded",
        "base": f"python:{str(source.recorded.get('python') or '3.11').rsplit('.', 1)[0]}",
    }
    for template, name in (("package_readme.md.j2", "README.md"), ("package_dockerfile.j2", "Dockerfile")):
        (place / name).write_text(environment.get_template(template).render(values) + "\n", encoding="utf-8")
    for run in campaign.runs:
        if run.index not in source.scored:
            (place / "unscored_runs").mkdir(exist_ok=True)
            shutil.copyfile(campaign.result(run.index), place / "unscored_runs" / f"run_{run.index}.txt")


def _kinds(proof: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The distinct ways GEMMs ran, over all layers."""
    names = ("gemm", "format", "transform", "scale_rule", "rounding", "backend", "engine")
    rows = [{name: row.get(name) for name in names} for row in proof.get("gemms", ())]
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]


def described_json(fields: Mapping[str, Field]) -> dict[str, dict[str, str]]:
    return {name: asdict(field) for name, field in fields.items()}
