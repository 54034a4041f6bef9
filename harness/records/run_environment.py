"""environment.json: everything besides the configuration that a result may depend on."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.paths import ROOT
from harness.contract import environment, file_names, files, typed_json
from harness.machine import probe

_PACKAGES = ("torch", "megatron-core", "mlperf-logging", "triton", "transformer-engine", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The commit of the sources that ran; dirty: some files differ from it."""

    commit: str = ""
    dirty: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnvironment:
    """The environment of a run. It holds no host name, because that would identify the submitter's machine.

    Args:
        time: when the attempt was created, ISO 8601.
        packages: installed package that takes part in the computation -> version.
        system: fields of the system description that the machine can answer.
        git: None outside a repository.
        variables: environment variables that change numerics.
    """

    time: str = ""
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    machine: str = ""
    cpu: str = ""
    cores: int = 0
    accelerator: str | None = None
    system: Mapping[str, str] = field(default_factory=dict)
    git: Commit | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> Mapping[str, str | None]:
        """What must be equal on every node of a run."""
        return {**self.packages, "commit": self.git.commit if self.git else None}


def describe() -> RunEnvironment:
    """The environment of this process now."""
    machine = probe.machine()
    return RunEnvironment(
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=probe.processor(),
        cores=environment.cores(),
        accelerator=machine.get("accelerator_model_name"),
        system=machine,
        git=_git(),
        variables=environment.numerics_variables(),
    )


def write(directory: Path, described: RunEnvironment) -> None:
    files.replace_json(directory / file_names.ENVIRONMENT, typed_json.to_plain(described))


def read(directory: Path) -> RunEnvironment:
    """Read the environment of a run. Where the file is missing or has another format, the fields are empty."""
    return typed_json.read(RunEnvironment, directory / file_names.ENVIRONMENT) or RunEnvironment()


def _version(package: str) -> str | None:
    import importlib.metadata  # takes 20 ms, which most commands need not spend

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> Commit | None:
    """The commit of this repository; None outside a repository."""
    if not (ROOT / ".git").exists():
        return None
    commit, changes = _git_says("rev-parse", "HEAD"), _git_says("status", "--porcelain")
    return None if commit is None else Commit(commit=commit.strip(), dirty=bool(changes and changes.strip()))


def _git_says(*arguments: str) -> str | None:
    try:
        # no optional locks: this must not disturb a git command that the user runs
        command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
