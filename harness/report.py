"""The report: one self-contained page, and the same data as report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from harness import plots
from harness.atomic import replace_json, replace_text
from harness.submissions import Submission
from harness.tables import number, summary


def write_report(submissions: Sequence[Submission], comparison: Mapping[str, Any], directory: Path) -> Path:
    """Write report.json and report.html.

    Args:
        submissions: the last one is the baseline; a single one gives a report without ratios.
        comparison: harness.comparison.compare of them.

    Returns:
        Path of the page.
    """
    document = {**comparison, "curves": [_curves(submission) for submission in submissions]}
    replace_json(directory / "report.json", document)
    replace_text(directory / "report.html", render(submissions, comparison))
    return directory / "report.html"


def headline(comparison: Mapping[str, Any]) -> str:
    """The sentence people came for."""
    if comparison["ratios"]:
        return str(comparison["ratios"][0]["verdict"])
    only = comparison["submissions"][0]
    minutes = only["time_to_train_min"]
    if minutes is None:
        return f"{only['name']}: no run reached the target."
    samples = only["samples_at_stop_mean"]
    return f"{only['name']} reaches the target in {minutes:.3f} minutes, after {samples:,.0f} samples."


def render(submissions: Sequence[Submission], comparison: Mapping[str, Any]) -> str:
    """The page as text; everything that comes from logs is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    return environment.get_template("report.html.j2").render(
        headline=headline(comparison),
        comparison=comparison,
        summary=summary(comparison["submissions"]),
        figures=_figures(submissions, comparison),
        runs=[_run_rows(submission) for submission in submissions],
        proofs=[proof for submission in submissions for proof in _proof_rows(submission)],
    )


def _figures(submissions: Sequence[Submission], comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plots and captions. The SVG is matplotlib's, which escapes the text it draws."""
    drawn = [
        (
            plots.loss_plot(submissions, against="samples"),
            "Every run's validation loss over training sequences.",
        ),
        (plots.loss_plot(submissions, against="minutes"), "The same over the official clock."),
        (plots.time_bars(submissions), "Run results, sorted; hatched: dropped by the olympic mean."),
        (
            plots.samples_dots(submissions),
            "Filled: interpolated. Open: the evaluation at which the run stopped.",
        ),
    ]
    if any(pair["time_to_train"] for pair in comparison["ratios"]):
        drawn.append((plots.decomposition(comparison["ratios"]), "Time = samples x seconds per sample."))
    return drawn


def _curves(submission: Submission) -> dict[str, Any]:
    return {
        "name": submission.name,
        "runs": [
            {
                "seed": run.seed,
                "samples": [one.samples for one in run.evaluations],
                "log_perplexity": [one.log_perplexity for one in run.evaluations],
                "minutes": [(one.time_ms - (run.run_start_ms or 0)) / 60_000 for one in run.evaluations],
            }
            for run in submission.runs
        ],
    }


def _run_rows(submission: Submission) -> dict[str, Any]:
    rows = [
        {
            "file": Path(run.path).name,
            "seed": run.seed,
            "status": run.run_status,
            "minutes": None if run.duration_s is None else run.duration_s / 60,
            "samples": run.samples_at_stop,
            "last": run.evaluations[-1].log_perplexity if run.evaluations else None,
        }
        for run in submission.runs
    ]
    return {"name": submission.name, "rows": rows}


def _proof_rows(submission: Submission) -> list[dict[str, Any]]:
    """Per GEMM what ran, summed over the layers and runs of a submission."""
    total: dict[tuple[str, ...], int] = {}
    for proof in submission.proofs:
        for row in proof.get("gemms", []):
            key = tuple(
                str(row.get(name)) for name in ("gemm", "format", "transform", "scale_rule", "backend")
            )
            total[key] = total.get(key, 0) + int(row.get("calls", 0))
    names = ("gemm", "format", "transform", "scale_rule", "backend")
    recipe = next((str(proof.get("recipe")) for proof in submission.proofs), "")
    return [
        {"name": submission.name, "recipe": recipe, **dict(zip(names, key, strict=True)), "calls": calls}
        for key, calls in total.items()
    ]
