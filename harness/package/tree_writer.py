"""Writes the content of a submission tree, below a directory that no other process sees yet."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.campaign.campaign import Campaign
from harness.config.file import leaves_of, resolve
from harness.contract import file_names
from harness.contract.config import Config, to_mapping
from harness.package import eligibility
from harness.package.eligibility import Submittable
from harness.package.system_fields import Field, describe

_TEMPLATES = Path(__file__).parent / "templates"
_WRITTEN = {  # template -> file name in the implementation's directory
    "package_readme.md.j2": "README.md",
    "package_dockerfile.j2": "Dockerfile",
    "package_setup.sh.j2": "setup.sh",
    "package_init_datasets.sh.j2": "init_datasets.sh",
    "package_run_and_time.sh.j2": "run_and_time.sh",
}
# variables of the training machine (paths and hosts), not of the configuration
_PLACES = ("launch", "data.directory", "runs.output")
_OF_THE_COMMAND = ("profile", "runs.count", "runs.arms")
_TORCH_INDEX = re.compile(r"\d[\w.]*\+(?P<tag>cpu|cu\d+|rocm[\d.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Args:
    described: system -> its description, with the origin of each field.
    origins: path of a file from the tree's parent -> the file that it was copied from.
    """

    described: dict[str, dict[str, Field]] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Software:
    """The software of the training machine, as the templates use it.

    Args:
        packages: names and versions in one line.
        python: major and minor version.
        torch_index: index of download.pytorch.org, for example cu130; None where the version names none.
        torch_of_a_vendor: whether torch came with a container image, so that no index has it.
    """

    packages: str
    python: str
    torch: str
    torch_index: str | None
    torch_of_a_vendor: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmKind:
    """One way in which GEMMs ran, in the words of proof.json."""

    gemm: object
    format: object
    transform: object
    scale_rule: object
    rounding: object
    backend: object
    engine: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Implementation:
    """The trained implementation, as the templates use it.

    Args:
        gemms: the distinct ways in which GEMMs ran, over all layers and runs.
        settings: options of `./run.sh run` that turn the packed benchmark.yaml into this configuration.
        arm_argument: the arm, quoted for a shell.
    """

    submitter: str
    system: str
    arm: str
    runs: int
    config: Config
    commit: str
    recipe: str
    gemms: Sequence[GemmKind]
    settings: str
    arm_argument: str


def name_of(text: str) -> str:
    """The name of a submitter or system as a directory name that the official tools and every file system accept."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")


def system_of(campaign: Campaign) -> str:
    return f"{name_of(campaign.config.system.name)}_{name_of(campaign.arm)}"


def write(sources: Sequence[Submittable], tree: Path, given: Mapping[str, str]) -> Written:
    """Write the tree of one organisation."""
    written = Written()
    for source in sources:
        campaign, system = source.campaign, system_of(source.campaign)
        written.described[system] = describe(campaign.config, source.recorded, given)
        values = {name: known.value for name, known in written.described[system].items()}
        _text(tree / "systems" / f"{system}.json", json.dumps(values, indent=4))
        results = tree / "results" / system / campaign.config.benchmark.name
        for number, index in enumerate(source.scored()):
            _copy(campaign.result(index), results / file_names.result(number), tree, written)
        place = (
            tree / "benchmarks" / campaign.config.benchmark.name / "implementations" / f"fourmark_{system}"
        )
        _implementation(source, place, tree, written)
    return written


def _implementation(source: Submittable, place: Path, tree: Path, written: Written) -> None:
    """Write README, Dockerfile, scripts, configuration and sources; with more than ten runs, also the unscored logs."""
    for name in eligibility.git("ls-files", "--", *eligibility.SOURCES).splitlines():
        if name not in _WRITTEN.values():
            _copy(ROOT / name, place / name, tree, written)
    campaign = source.campaign
    _text(place / "resolved_config.json", json.dumps(_without_places(campaign.config), indent=2))
    scored = source.scored()
    for run, evidence in zip(campaign.runs, source.evidence, strict=True):
        _text(place / "proofs" / f"{file_names.run(run.index)}.json", json.dumps(evidence.proof, indent=1))
        if run.index not in scored:
            unscored = place / "unscored_runs" / f"{file_names.run(run.index)}.txt"
            _copy(campaign.result(run.index), unscored, tree, written)
    values = _described(source), software(source.recorded)
    for template, name in _WRITTEN.items():
        _text(place / name, rendered(template, *values))
        (place / name).chmod(0o755 if name.endswith(".sh") else 0o644)


def rendered(template: str, *values: Implementation | Software) -> str:
    """A template filled with the fields of these values; a missing field is an error."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    known = {field.name: getattr(one, field.name) for one in values for field in dataclasses.fields(one)}
    return environment.get_template(template).render(known).rstrip("\n")


def _described(source: Submittable) -> Implementation:
    campaign = source.campaign
    return Implementation(
        submitter=campaign.config.system.submitter,
        system=campaign.config.system.name,
        arm=campaign.arm,
        runs=len(campaign.runs),
        config=campaign.config,
        commit=source.commit,
        recipe=campaign.config.arms[campaign.arm].recipe,
        gemms=_kinds(source),
        settings=" ".join(f"--set {shlex.quote(text)}" for text in settings(campaign.config)),
        arm_argument=shlex.quote(campaign.arm),
    )


def software(recorded: Mapping[str, object]) -> Software:
    """The software, from environment.json of a run."""
    packages = recorded.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    torch = str(versions.get("torch") or "")
    indexed = _TORCH_INDEX.fullmatch(torch)
    return Software(
        packages=", ".join(f"{name} {version}" for name, version in versions.items()),
        python=str(recorded.get("python") or "").rpartition(".")[0],
        torch=torch,
        torch_index=indexed["tag"] if indexed else None,
        torch_of_a_vendor="+" in torch and not indexed,
    )


def _kinds(source: Submittable) -> list[GemmKind]:
    names = [field.name for field in dataclasses.fields(GemmKind)]
    rows = [row for one in source.evidence for row in one.proof["gemms"]]
    return list(dict.fromkeys(GemmKind(**{name: row.get(name) for name in names}) for row in rows))


def settings(config: Config) -> list[str]:
    """The --set options that turn the packed benchmark.yaml into this configuration."""
    plain = resolve(config.profile, file=ROOT / "benchmark.yaml", aliases={}).config
    before = dict(leaves_of(_without_places(plain)))
    after = dict(leaves_of(_without_places(config)))
    changed = [key for key in after if key not in _OF_THE_COMMAND and after[key] != before.get(key)]
    return [f"{key}={_yaml(after[key])}" for key in changed]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _without_places(config: Config) -> dict[str, Any]:
    mapping: dict[str, Any] = json.loads(json.dumps(to_mapping(config)))
    for place in _PLACES:
        section, _, name = place.rpartition(".")
        (mapping[section] if section else mapping).pop(name)
    return mapping


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _copy(source: Path, path: Path, tree: Path, written: Written) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file() or source.is_symlink():
        raise UsageError(
            f"{source}: not a plain file; replace it by a plain file, because a package holds nothing else"
        )
    shutil.copyfile(source, path)
    path.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
    written.origins[path.relative_to(tree.parent).as_posix()] = source
