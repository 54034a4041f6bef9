"""The answer of `status`: dataclasses whose fields are the keys of `status --json`, and a line of text per run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis import energy
from harness.analysis.energy import Use
from harness.analysis.forecast import Band
from harness.base.text import printable
from harness.campaign import forecast_text
from harness.campaign.campaign import Campaign, Run
from harness.campaign.forecast_text import View
from harness.contract import attempt_rows, file_names
from harness.records import attempt, lock
from harness.records.metrics import Tail

_LONGEST = 400  # characters of a message that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Forecast of the samples and the time to the target. It informs; nothing acts on it.

    Args:
        error_pct, error_s: the forecast was closer for nine of ten held-out public runs; None without calibration.
        why: the basis of the forecast, or why there is none.
    """

    samples_to_target: float | None
    error_pct: float | None
    samples_at_stop: int | None
    time_to_target_s: float | None
    time_to_stop_s: float | None
    error_s: float | None
    why: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedAttempt:
    """An attempt that ended without a result, and why.

    Args:
        log: what its processes printed.
    """

    attempt: int
    reason: str
    message: str
    log: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run. A run without an attempt has trained nothing.

    Args:
        state: pending | running | stopped | promoted | failed.
        phase: state in the training's status.json.
        public_band: log perplexity of public runs at the last evaluation.
        reference_samples: mean of the reference convergence point.
        prediction: None for a run that has ended.
    """

    index: int
    seed: int
    state: str
    attempts: int
    outcome: str | None
    reason: str | None
    phase: str | None = None
    samples: int = 0
    log_perplexity: float | None = None
    samples_per_s: float | None = None
    memory_bytes: int | None = None
    public_band: Band | None = None
    reference_samples: float | None = None
    prediction: Prediction | None = None
    power: Sequence[Use] = ()
    failures: Sequence[FailedAttempt] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CampaignRow:
    """One campaign.

    Args:
        processes: ids of the processes that train it.
    """

    campaign: str
    directory: str
    job: str
    arm: str
    profile: str
    finished: bool
    processes: Sequence[int]
    runs: Sequence[RunRow]


def describe(made: Campaign) -> CampaignRow:
    """The progress of a campaign, from its files."""
    trainers = lock.trainers(made.directory)
    return CampaignRow(
        campaign=made.directory.name,
        directory=str(made.directory),
        job=made.job,
        arm=made.arm,
        profile=made.config.profile,
        finished=made.finished,
        processes=trainers,
        runs=[_describe_run(made, run, training=bool(trainers)) for run in made.runs],
    )


def _describe_run(made: Campaign, run: Run, *, training: bool) -> RunRow:
    # the processes are gone; ./run.sh resume decides from the files how the run ended
    state = "stopped" if run.state == "running" and not training else run.state
    row = RunRow(
        index=run.index,
        seed=run.seed,
        state=state,
        attempts=run.attempts,
        outcome=run.outcome,
        reason=run.reason,
    )
    latest = made.last_attempt(run.index)
    if latest is None:
        return row
    tail = Tail(latest / file_names.METRICS)
    tail.read()
    status = attempt_rows.read_status(latest)
    loss = tail.evaluations[-1].log_perplexity if tail.evaluations else None
    view = forecast_text.look(
        tail.evaluations,
        made.own_config,
        samples=tail.samples,
        samples_per_s=tail.samples_per_s,
        evaluation_s=tail.evaluation_s,
    )
    return replace(
        row,
        phase=status.state if status else None,
        samples=tail.samples,
        log_perplexity=loss if loss is not None and math.isfinite(loss) else None,  # JSON has no NaN
        samples_per_s=tail.samples_per_s,
        memory_bytes=status.memory_bytes if status else None,
        public_band=view.band,
        reference_samples=view.reference_samples,
        prediction=None if run.state == "promoted" else _prediction(view),
        power=energy.of_log(latest),
        failures=_failures(made.run_directory(run.index)),
    )


def _failures(run: Path) -> list[FailedAttempt]:
    """The attempts of a run that ended without a result, in their order."""
    found = []
    for directory in attempt.directories(run):
        last = attempt.ending(directory)
        if last is not None and attempt.result(directory) is None:
            log = str(directory / file_names.STDOUT)
            number, message = attempt.number(directory), printable(last.message or "", _LONGEST)
            found.append(FailedAttempt(attempt=number, reason=last.reason, message=message, log=log))
    return found


def _prediction(view: View) -> Prediction:
    return Prediction(
        samples_to_target=view.outlook.samples,
        error_pct=view.outlook.error_pct,
        samples_at_stop=view.samples_at_stop,
        time_to_target_s=view.time_to_target_s,
        time_to_stop_s=view.time_to_stop_s,
        error_s=view.error_s,
        why=view.outlook.why,
        text=forecast_text.way(view),
    )


def table(campaigns: Sequence[CampaignRow]) -> list[str]:
    """The same as text: a line per campaign, then a line per run."""
    lines = []
    for one in campaigns:
        done = sum(run.state == "promoted" for run in one.runs)
        lines.append(f"{one.campaign}: {done} of {len(one.runs)} runs")
        for run in one.runs:
            lines += [_row(run), *(line for failed in run.failures for line in _failure(failed))]
    return lines


def _failure(one: FailedAttempt) -> list[str]:
    said = f": {one.message}" if one.message else ""
    return [f"    attempt {one.attempt} failed, {one.reason}{said}", f"      log {one.log}"]


def _row(run: RunRow) -> str:
    """State and what is known of a run; what is not known yet is left out."""
    state = run.state if run.state != "promoted" else f"{run.outcome} ({run.reason})"
    known = [f"{run.samples:,} samples"] if run.attempts else []
    if run.log_perplexity is not None:
        known.append(f"log perplexity {run.log_perplexity:.3f}")
    if (band := run.public_band) is not None:
        known.append(f"public runs {band.low:.3f}-{band.high:.3f}")
    if run.state == "running" and run.prediction:
        known.append(run.prediction.text)
    if run.samples_per_s is not None:
        known.append(f"{run.samples_per_s:,.1f} samples/s")
    if memory := forecast_text.memory(run.memory_bytes):
        known.append(memory)
    known += [energy.text(use) for use in run.power]
    if run.attempts > 1:
        known.append(f"{run.attempts} attempts")
    return f"  run {run.index:<2} {state:<18} {', '.join([*known, f'seed {run.seed}'])}"
