"""A finished 8B campaign without a GPU: the real run by the rules over a script, with proofs of native GEMMs."""

from __future__ import annotations

import json

from harness import attempt, campaign, jobs, packaging
from harness.config_file import resolve
from harness.events import Events
from harness.paths import ROOT
from submission import train
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor

COMMIT = "c0ffee" + "0" * 34
SOURCES = (
    "benchmark.yaml",
    "run.sh",
    "requirements.txt",
    "LICENSE",
    "harness/config.py",
    "submission/train.py",
)
FIELDS = {"accelerator_model_name": "AMD Instinct MI355X", "cooling": "liquid"}


class NativeExecutor(ScriptedExecutor):
    backend = "native"

    def proof(self):
        row = {"layer": "layers.0.mlp.linear_fc1", "format": "mxfp4", "transform": "H16", "scale_rule": "even",
               "rounding": "nearest", "backend": self.backend, "engine": "triton dot_scaled", "calls": 5}  # fmt: skip
        gemms = [{**row, "gemm": gemm} for gemm in ("fprop", "dgrad", "wgrad")]
        return {"recipe": "amd-te", "linears": 1, "gemms": gemms, "verified": True}


def git(*arguments):
    """A clean checkout of COMMIT with a few sources."""
    return {"rev-parse": COMMIT, "status": "", "ls-files": "\n".join(SOURCES)}[arguments[0]]


def finished_campaign(output, monkeypatch, *, runs=10, executor=NativeExecutor, dirty=False, **settings):
    """Directory of a campaign whose runs all end by the rules; keyword arguments override keys, `__` is a dot."""
    described = attempt.describe_environment()
    described |= {
        "git": {"commit": COMMIT, "dirty": dirty},
        "packages": {"torch": "2.13.0", "megatron-core": "0.16.1"},
    }
    monkeypatch.setattr(attempt, "describe_environment", lambda: described)
    monkeypatch.setattr(packaging, "_git", git)
    keys = {
        "runs.output": output, "runs.count": runs, "runs.arms": "[mxfp4]", "system.submitter": "Example",
        "system.name": "box", **{name.replace("__", "."): value for name, value in settings.items()},
    }  # fmt: skip
    config = resolve("llama31_8b", overrides=[f"{k}={v}" for k, v in keys.items()], aliases={}).config
    made = jobs.create(config).campaigns[0]
    for run in made.runs:
        made, directory = campaign.begin_attempt(made, run)
        _train(config, directory, run, executor)
    return campaign.settle(made).directory


def _train(config, directory, run, executor):
    losses = [6.5 - 0.22 * k - run.index / 1000 for k in range(13)]
    losses += [3.35 - run.index / 1000, 3.29 - run.index / 1000]
    events = Events(directory / "result.txt", writes=True)
    record = Record(directory, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
    train.run(executor(config, seed=run.seed, losses=losses), config, events, record)


def fields_file(directory):
    path = directory / "fields.json"
    path.write_text(json.dumps(FIELDS))
    return path


assert all((ROOT / name).is_file() for name in SOURCES)
