"""Rows of a comparison's tables, the same for the terminal, the page and the files beside it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from harness.analysis import run_figures
from harness.analysis.comparison import Ratios
from harness.analysis.decomposition import Factor
from harness.analysis.index_selection import accelerator_of
from harness.analysis.intervals import Ratio
from harness.analysis.loss_gap import Gap
from harness.analysis.ranking import Ranking
from harness.analysis.ranking import number as score_number
from harness.analysis.run_figures import RunFigures
from harness.analysis.submission_loader import Submission
from harness.base.text import number, spreadsheet_cell


def _evaluation_pct(row: RunFigures) -> float | None:
    return None if row.evaluation_share is None else 100 * row.evaluation_share


_SUMMARY: tuple[tuple[str, Callable[[RunFigures], object], int], ...] = (
    ("organisation", lambda row: row.org, 0),
    ("system", lambda row: row.system, 0),
    ("accelerator", lambda row: row.accelerator or accelerator_of(None, row.system), 0),
    ("accelerators", lambda row: row.accelerators, 0),
    ("precision", lambda row: row.precision, 0),
    ("global batch size", lambda row: row.global_batch_size, 0),
    ("runs", lambda row: row.runs, 0),
    ("runs at the target", lambda row: row.runs_converged, 0),
    ("official score, minutes", lambda row: row.time_to_train_normalized_min, 3),
    ("  not normalised, minutes", lambda row: row.time_to_train_min, 3),
    ("accelerator-hours", lambda row: row.accelerator_hours, 1),
    ("samples at stop, mean", lambda row: row.samples_at_stop_mean, 1),
    ("samples to target, mean", lambda row: row.samples_to_target_mean, 1),
    ("  standard deviation", lambda row: row.samples_to_target_sd, 1),
    ("samples per second", lambda row: row.samples_per_s, 2),
    ("step time, seconds", lambda row: row.step_time_s, 4),
    ("evaluation, % of the run", _evaluation_pct, 2),
    ("TFLOP/s per accelerator", lambda row: row.tflops_per_accelerator, 0),
    ("start-up before the clock, s", lambda row: row.init_s, 1),
)
_HYPERPARAMETERS = (
    ("base learning rate", "opt_base_learning_rate"),
    ("warmup steps", "opt_learning_rate_warmup_steps"),
    ("AdamW epsilon", "opt_adamw_epsilon"),
)
_LARGE = 2.0  # larger ratios are written as a factor
_FACTORS = (  # factors of the ratio of times: each indented level multiplies to the line above it
    ("time to train", Factor.TIME_TO_TRAIN),
    ("  = samples at stop", Factor.SAMPLES_AT_STOP),
    ("      = samples to target", Factor.SAMPLES_TO_TARGET),
    ("      x evaluation grid, dropped runs", Factor.EVALUATION_GRID),
    ("  x seconds per sample", Factor.SECONDS_PER_SAMPLE),
    ("      = training alone", Factor.TRAINING_SECONDS_PER_SAMPLE),
    ("      x evaluations", Factor.EVALUATION_OVERHEAD),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run of a submission; the fields are the columns of report.csv."""

    submission: str
    file: str
    seed: int | None
    status: str | None
    minutes: float | None
    samples: int | None  # samples when the run stopped
    to_target: float | None  # samples to the target, interpolated
    last: float | None  # log perplexity of the last evaluation
    evaluation_s: float | None
    init_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemm:
    """The engine and format of one of the three GEMMs of a linear layer, from a proof."""

    gemm: str
    format: str
    transform: str
    scale_rule: str
    rounding: str
    backend: str
    engine: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofRow:
    """Calls of one GEMM, summed over the layers and runs of a submission."""

    name: str
    recipe: str
    gemm: Gemm
    calls: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One figure at the head of the page; the interval is empty if there is none."""

    label: str
    value: str
    interval: str
    decided: bool


def runs(submission: Submission) -> list[RunRow]:
    """One row per run."""
    return [
        RunRow(
            submission=submission.name,
            file=Path(run.path).name,
            seed=run.seed,
            status=run.run_status,
            minutes=None if run.duration_s is None else run.duration_s / 60,
            samples=run.samples_at_stop,
            to_target=run_figures.interpolated(run, submission.target),
            last=run.evaluations[-1].log_perplexity if run.evaluations else None,
            evaluation_s=None if timing.evaluation_ms is None else timing.evaluation_ms / 1000,
            init_s=None if timing.init_ms is None else timing.init_ms / 1000,
        )
        for run, timing in zip(submission.runs, submission.timings, strict=True)
    ]


def as_csv(submissions: Sequence[Submission]) -> str:
    """Every run of every submission, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(RunRow))
    for row in (row for one in submissions for row in runs(one)):
        writer.writerow(spreadsheet_cell(value) for value in astuple(row))
    return text.getvalue()


def proofs(submission: Submission) -> list[ProofRow]:
    """Return what ran for each GEMM, summed over the layers and runs of a submission."""
    total: Counter[Gemm] = Counter()
    for proof in submission.proofs:
        for row in proof.gemms:
            total[Gemm(**{field.name: str(getattr(row, field.name)) for field in fields(Gemm)})] += row.calls
    recipe = next((proof.recipe for proof in submission.proofs), "")
    return [
        ProofRow(name=submission.name, recipe=recipe, gemm=gemm, calls=calls) for gemm, calls in total.items()
    ]


def tiles(ratios: Ratios) -> list[Tile]:
    """Return the three main figures, in words that need no table."""
    official = ratios.official_score
    asked = (
        ("official score", official) if official else ("time to train", ratios.time_to_train),
        ("samples to target", ratios.samples_to_target),
        ("samples per second", ratios.throughput),
    )
    return [
        Tile(
            label=label,
            value=_percent(one.ratio),
            interval=" to ".join(map(_percent, one.ci95 or ())),
            decided=one.decided,
        )
        for label, one in asked
        if one is not None
    ]


def _percent(ratio: float) -> str:
    if ratio >= _LARGE:
        return f"× {ratio:.1f}"
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−")


def ranked(ranking: Ranking) -> list[tuple[str, ...]]:
    """Return place, name, product, score and letters; submissions with a common letter are not distinguishable."""
    rows: list[tuple[str, ...]] = []
    for place in ranking.places:
        letters = [_letter(index) for index, tie in enumerate(ranking.ties) if place.submission in tie]
        score = score_number(ranking, place.value)
        rows.append((place.text, place.submission, place.product, score, "".join(letters) or "–"))
    return rows + [("–", name, why, "–", "–") for name, why in ranking.unranked]


def _letter(index: int) -> str:
    """a .. z, then a1 .."""
    turn, letter = divmod(index, 26)
    return f"{chr(ord('a') + letter)}{turn or ''}"


def summary(rows: Sequence[RunFigures]) -> list[tuple[str, list[str]]]:
    """The table of submissions: one line per quantity, one cell per submission."""
    lines = [(label, [number(value(row), digits) for row in rows]) for label, value, digits in _SUMMARY]
    stated = [(label, [_stated(row.hyperparameters[key]) for row in rows]) for label, key in _HYPERPARAMETERS]
    return lines + stated


def _stated(value: str | int | float | None) -> str:
    """A hyperparameter as its log states it."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def factors(ratios: Ratios) -> list[tuple[str, Ratio | None]]:
    """The official scores, the ratio of times and its factors, indented below it; None if a log does not state it."""
    score = ("official score, RCP-normalised", ratios.official_score)
    return [score] + [(label, ratios.factors.get(factor)) for label, factor in _FACTORS]


def whole_runs(ratios: Ratios) -> list[tuple[str, Ratio | None]]:
    """Return the ratios over all converged runs that are not among the factors."""
    return [
        ("all runs: samples per second", ratios.throughput),
        ("same seeds: samples to target", ratios.paired_samples_to_target),
    ]


def ratio_cells(ratio: Ratio | None) -> tuple[str, str]:
    """Ratio and 95 % interval of one quantity."""
    if ratio is None:
        return "–", ""
    interval = ratio.ci95
    return f"{ratio.ratio:.3f}", "–" if interval is None else f"{interval[0]:.3f} .. {interval[1]:.3f}"


def gap_lines(gaps: Sequence[Gap], most: int = 5) -> list[str]:
    """A few evenly spread differences of log perplexity, including the last one."""
    step = max(1, -(-len(gaps) // most))
    return [
        f"{row.samples:>9,} samples  {row.gap:+.4f}"
        + ("" if row.ci95 is None else f"   ({row.ci95[0]:+.4f} .. {row.ci95[1]:+.4f})")
        for row in reversed(gaps[::-1][::step])
    ]
