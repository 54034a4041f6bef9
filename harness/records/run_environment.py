"""environment.json: what a result may depend on besides its configuration."""

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
    """The sources that ran; dirty: files differ from the commit."""

    commit: str = ""
    dirty: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnvironment:
    """No host name, which says more than it helps.

    Args:
        time: of the attempt's creation, ISO 8601.
        packages: installed ones that compute -> version.
        system: fields of the system description that the machine can answer.
        git: None outside a repository.
        variables: of the process environment, those that change numerics.
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
        """What has to be the same on every node of a run."""
        return {**self.packages, "commit": self.git.commit if self.git else None}


def describe() -> RunEnvironment:
    """This process's environment now."""
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
    """The environment of a run; one that says nothing where its file is missing or of another kind."""
    return typed_json.read(RunEnvironment, directory / file_names.ENVIRONMENT) or RunEnvironment()


def _version(package: str) -> str | None:
    import importlib.metadata  # takes 20 ms, which most commands need not wait for

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> Commit | None:
    """None outside a repository."""
    if not (ROOT / ".git").exists():
        return None
    commit, changes = _git_says("rev-parse", "HEAD"), _git_says("status", "--porcelain")
    return None if commit is None else Commit(commit=commit.strip(), dirty=bool(changes and changes.strip()))


def _git_says(*arguments: str) -> str | None:
    try:
        # no optional locks: looking must not disturb a git command the user runs
        command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
