"""For the tests of `package`: our sources in a clean repository, and finished 8B campaigns without a GPU.

A campaign is made by the real run by the rules over a script, with proofs of native GEMMs.
"""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from compliance.official import package_checker
from compliance.official.package_checker import Oracle
from harness.base.paths import ROOT
from harness.campaign import campaign, store
from harness.campaign.campaign import Campaign
from harness.config.file import resolve
from harness.contract.events import Events
from harness.package import eligibility, tree_writer
from harness.records import run_environment
from submission import train
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor

EVALUATIONS = 15  # of 12,288 samples: 184,320, no faster than the reference at batch size 32


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(directory: Path) -> Path:
    """This working tree's sources, committed."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "--", *eligibility.SOURCES)
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    git(directory, "init", "-q")
    return commit(directory)


def commit(directory: Path) -> Path:
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "sources")
    return directory


def work_in(patch, directory: Path) -> None:
    """Runs and packages come from this repository."""
    for module in (run_environment, eligibility, tree_writer):
        patch.setattr(module, "ROOT", directory)


class NativeExecutor(ScriptedExecutor):
    backend, format, losses_at = "native", "mxfp4", staticmethod(lambda index: losses(index))

    def proof(self):
        row = {"layer": "layers.0.mlp.linear_fc1", "format": self.format, "transform": "H16", "scale_rule": "even",
               "rounding": "nearest", "backend": self.backend, "engine": "triton dot_scaled", "calls": 5}  # fmt: skip
        gemms = [{**row, "gemm": gemm} for gemm in ("fprop", "dgrad", "wgrad")]
        return {"recipe": "amd-te", "linears": 1, "gemms": gemms, "verified": True}


def losses(index: int) -> list[float]:
    falling = [6.5 - 0.23 * k - 0.0010301 * (index + 1) for k in range(EVALUATIONS - 1)]
    return [*falling, 3.2900001 - 0.0010301 * index]


def finished(
    output: Path, *, executor=NativeExecutor, only: int | None = None, **settings: object
) -> Campaign:
    """A campaign whose runs have ended by the rules; keyword arguments override keys, `__` is a dot.

    Args:
        only: how many of its runs; the others are pending.
    """
    keys = {
        "runs.output": output, "runs.arms": "[mxfp4]", "system.submitter": "Example", "system.name": "box",
        **{name.replace("__", "."): value for name, value in settings.items()},
    }  # fmt: skip
    config = resolve("llama31_8b", overrides=[f"{k}={v}" for k, v in keys.items()], aliases={}).config
    made = store.create(config).campaigns[0]
    for run in made.runs[:only]:
        made, directory = campaign.begin_attempt(made, run)
        scripted = executor(config, seed=run.seed, losses=executor.losses_at(run.index))
        record = Record(directory, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
        train.run(scripted, config, Events(directory / "result.txt", writes=True), record)
    return campaign.settle(made)


@cache
def shared() -> tuple[Path, Campaign]:
    """Sources and a finished campaign for every test that leaves both as they are."""
    place = Path(tempfile.mkdtemp(prefix="package-campaign-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / "sources").mkdir()
    sources = repository(place / "sources")
    with pytest.MonkeyPatch.context() as patch:
        work_in(patch, sources)
        settings = {"batch__micro_batch_size": 1, "launch__master_addr": "10.1.2" + ".3"}
        return sources, finished(place / "runs", **settings)


def content_tools(patch) -> None:
    """The official tools are asked elsewhere: what fails a tree here is ours."""
    clean = [Oracle(tool=tool, verdict="pass", note="not asked") for tool in package_checker.TOOLS]
    patch.setattr(package_checker, "ask", lambda *_: clean)


def copied(made: Campaign, place: Path) -> Campaign:
    """The campaign elsewhere, to give it a defect."""
    shutil.copytree(made.directory, place)
    return campaign.load(place)


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
