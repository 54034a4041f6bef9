"""Checkpoints in a run: what the log and the side files say, what is refused, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.base.errors import ConfigError
from harness.base.paths import ROOT
from harness.config.derived import lint
from harness.config.file import resolve
from harness.contract.events import Events
from harness.records.metrics import Tail
from submission import train
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor

OPEN = ("system.division=open", "runs.count=1", "runs.seed=77")


@dataclass(frozen=True)
class Saved:
    directory: Path
    bytes: int = 3_000_000


class Resumable(ScriptedExecutor):
    """Pretends to load 24 steps of the proxy, and to save."""

    def resume(self, directory):
        return 24 * self.config.batch.global_batch_size

    def save(self, home):
        return Saved(home / f"step_{24 + self.steps}")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train the proxy by a script from step 24 of a checkpoint, saving every 12 steps; its log and metrics."""
    config = resolve("proxy", overrides=[*OPEN, "checkpoint.every_steps=12"]).config
    object.__setattr__(config.checkpoint, "resume", str(tmp_path / "step_24"))
    directory = tmp_path / "campaign" / "run_0" / "attempt_1"
    directory.mkdir(parents=True)
    events = Events(directory / "result.txt", writes=True)
    record = Record(directory, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
    train.run(Resumable(config, seed=77, losses=[5.0, 4.0]), config, events, record)
    lines = (directory / "result.txt").read_text().splitlines()
    log = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return directory, log, metrics


def test_a_resumed_run_counts_on_and_evaluates_on_the_same_grid(run):
    """The interval is 16 steps of 8: from step 24 the first evaluation is at 32, as without the interruption."""
    _, log, metrics = run
    counts = [(e["key"], e["metadata"].get("samples_count")) for e in log]
    first, second = 32 * 8, 48 * 8
    assert [c for c in counts if c[0] in ("block_start", "block_stop")] == [
        ("block_start", 24 * 8),
        ("block_stop", first),
        ("block_start", first),
        ("block_stop", second),
    ]
    assert [count for key, count in counts if key == "eval_accuracy"] == [first, second]
    assert log[-1]["metadata"] | {"file": 0, "lineno": 0} == {
        "status": "success",
        "samples_count": second,
        "file": 0,
        "lineno": 0,
    }
    steps = [row["step"] for row in metrics if row["kind"] == "train"]
    assert steps == list(range(25, 49))


def test_saving_and_resuming_are_told_with_their_seconds_and_bytes(run, capsys):
    directory, _, metrics = run
    told = [row for row in metrics if row["kind"] == "checkpoint"]
    assert [(row["what"], row["step"]) for row in told] == [
        ("resumed from", 24),
        ("saved", 36),
        ("saved", 48),
    ]
    assert metrics[0] == told[0]
    assert told[1]["bytes"] == 3_000_000 and told[1]["seconds"] >= 0 and told[1]["samples"] == 288
    assert told[1]["directory"] == str(directory / "checkpoints" / "step_36")
    kinds = [row["kind"] for row in metrics]
    assert kinds[-2:] == ["eval", "checkpoint"]  # between blocks, where both are due


def test_the_speed_of_a_resumed_run_is_that_of_the_steps_it_trained(run):
    directory, _, metrics = run
    tail = Tail(directory / "metrics.jsonl")
    tail.read()
    seconds = sum(row["step_s"] for row in metrics if row["kind"] == "train")
    assert tail.samples_per_s == pytest.approx(24 * 8 / seconds)


def test_a_configured_directory_keeps_runs_apart(tmp_path):
    attempt = tmp_path / "20260101_proxy_mxfp4" / "run_3" / "attempt_2"
    record = Record(attempt, writes=False, caches_cleared=True, max_steps=1)
    assert record.checkpoints("") == attempt / "checkpoints"
    assert record.checkpoints("/shared") == Path("/shared/20260101_proxy_mxfp4/run_3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint of the proxy after 8 steps, but for the tensors; and the settings that may go on from it."""
    from submission.checkpoint.checkpoint import Run, _publish
    from tests.submission.configurations import write_data

    base = tmp_path_factory.mktemp("checkpoint")
    (base / "data").mkdir()
    write_data(base / "data")
    settings = [*OPEN, f"data.directory={base / 'data'}", "runs.arms=[mxfp4]"]
    config = resolve("proxy", overrides=settings).config
    part = base / ".step_00000008.part"
    part.mkdir()
    (part / "common.pt").write_bytes(b"state")
    final = base / "step_00000008"
    _publish(part, final, Run(config=config, arm="mxfp4", seed=77), samples=64)
    return final, [*settings, f"checkpoint.resume={final}"]


def refused(*overrides):
    with pytest.raises(ConfigError) as error:
        resolve("proxy", overrides=overrides)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_another_layout_recipe_and_cadence_may_go_on_and_the_plan_says_from_where(made):
    _, settings = made
    freely = [
        "parallelism.tensor=2",
        "batch.micro_batch_size=2",
        "runs.arms=[fp8]",
        "evaluation.interval_samples=64",
    ]
    config = resolve("proxy", overrides=[*settings, *freely, "checkpoint.every_steps=100"]).config
    notes = "\n".join(lint(config))
    assert "resumes after step 8 (64 samples) of an mxfp4 run, seed 77; such a run is not a result" in notes
    assert "every 100 steps about 0.01 GB, written inside the timed run; the last 2 stay" in notes


@pytest.mark.parametrize("key", ["checkpoint.every_steps=4", "checkpoint.resume=/somewhere"])
@pytest.mark.parametrize("profile", ["proxy", "llama31_8b"])
def test_the_closed_division_has_no_checkpoints(profile, key):
    with pytest.raises(ConfigError, match="in the closed division") as error:
        resolve(profile, overrides=[key])
    assert "(--set system.division=open)" in str(error.value) and f"--set {key}: " in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("runs.seed=78", "runs.seed: found 78; allowed: 77, the checkpoint's (--set runs.seed=77"),
        ("runs.count=2", "runs.count: found 2; allowed: 1 with checkpoint.resume"),
        ("model.layers=2", "model.layers: found 2; allowed: 4, the checkpoint's"),
        ("model.dtype=fp32", "model.dtype: found fp32; allowed: bf16"),
        ("batch.global_batch_size=16", "batch.global_batch_size: found 16; allowed: 8"),
        ("schedule.max_steps=700", "schedule.max_steps: found 700; allowed: 600"),
        ("optimizer.beta2=0.99", "optimizer.beta2: found 0.99; allowed: 0.95"),
        ("parallelism.distributed_optimizer=false", "distributed_optimizer: found False; allowed: True"),
        ("runs.arms=[fp8-te-delayed]", "transformer_engine: found delayed; allowed: none"),
        ("checkpoint.resume=/nowhere", "checkpoint.resume: found /nowhere: no such directory"),
        ("checkpoint.keep=0", "checkpoint.keep: found 0; allowed: a number > 0"),
        ("checkpoint.every_steps=-1", "checkpoint.every_steps: found -1; allowed: a number >= 0"),
    ],
)
def test_what_a_checkpoint_cannot_go_on_from_is_refused_by_its_key(made, change, words):
    assert words in refused(*made[1], change)


def test_another_corpus_is_refused(made, tmp_path):
    final, settings = made
    for path in (final.parent / "data").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "train.bin").open("r+b") as file:
        file.write(b"\xff\x01")
    assert "allowed: the corpus of the checkpoint" in refused(*settings, f"data.directory={tmp_path}")


def test_half_a_checkpoint_is_refused_and_says_what_is_missing(made, tmp_path):
    final, settings = made
    copy = tmp_path / "step_00000008"
    copy.mkdir()
    manifest = (final / "fourmark.json").read_text()
    there = [*settings, f"checkpoint.resume={copy}"]
    assert "a directory without fourmark.json: incomplete" in refused(*there)
    (copy / "fourmark.json").write_text(manifest)
    assert "an incomplete checkpoint: common.pt is missing; it must have 5 bytes" in refused(*there)
    (copy / "common.pt").write_bytes(b"sta")
    assert "common.pt is 3 bytes; it must have 5 bytes" in refused(*there)
    (copy / "fourmark.json").write_text(manifest[:-9])
    assert "a fourmark.json that is not JSON" in refused(*there)
    for other in ('{"schema": 0}', "[]", '{"schema": 1, "step": "8"}'):
        (copy / "fourmark.json").write_text(other)
        assert "a fourmark.json of another version" in refused(*there)
    parent = [*settings, f"checkpoint.resume={final.parent}"]
    assert f"a directory of checkpoints; the last is {final}" in refused(*parent)


def command(output, *arguments):
    """./run.sh run of two ranks and one arm, six steps to the only evaluation: what it said, and the attempt."""
    short = [
        "schedule.warmup_steps=1",
        "evaluation.interval_samples=48",
        "evaluation.target_log_perplexity=7.5",
    ]
    overrides = [*OPEN, *short, *arguments]
    line = [
        "run",
        "--profile",
        "proxy",
        "--arm",
        "mxfp4",
        *(word for key in overrides for word in ("--set", key)),
    ]
    environment = {**os.environ, "LOGDIR": str(output), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *line], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done, next(output.glob("*/run_0/attempt_1"), None)


def rows(attempt, kind):
    found = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


@pytest.mark.slow
def test_the_command_line_saves_and_another_layout_goes_on(tmp_path):
    done, first = command(tmp_path / "a", "checkpoint.every_steps=3")
    saved = sorted((first / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step_00000003", "step_00000006"], done.stderr
    assert "checkpoint saved" in (first / "stdout.log").read_text()
    layout = ("parallelism.tensor=2", "parallelism.sequence_parallel=true", "batch.micro_batch_size=8")
    done, second = command(tmp_path / "b", f"checkpoint.resume={saved[0]}", *layout)
    assert second is not None and "Traceback" not in done.stderr, done.stderr
    keys = [json.loads(line.removeprefix(":::MLLOG ")) for line in (second / "result.txt").open()]
    assert [key["value"] for key in keys if key["key"] == "init_checkpoint_step"] == [3]
    went_on, straight = rows(second, "train"), rows(first, "train")
    assert [row["step"] for row in went_on] == [4, 5, 6]
    assert [row["lr"] for row in went_on] == [row["lr"] for row in straight[3:]]
    pairs = zip(went_on, straight[3:], strict=True)
    # BF16 and MXFP4: other sums flip single roundings, which training amplifies
    assert (
        max(abs(a["loss"] - b["loss"]) for a, b in pairs) < 0.05 < straight[0]["loss"] - straight[3]["loss"]
    )
    assert rows(second, "eval")[0]["samples"] == rows(first, "eval")[0]["samples"] == 48
    done, third = command(tmp_path / "c", f"checkpoint.resume={saved[0]}", "runs.seed=5")
    assert done.returncode == 2 and third is None and done.stderr.count("\n") == 1
