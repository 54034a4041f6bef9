"""A comparison as JSON: the document of `compare --json` and of report.json (design.md states its keys)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.analysis.claims import Claim
from harness.analysis.comparison import Comparison, Pair, Ratios
from harness.analysis.costs import Cost
from harness.analysis.intervals import Ratio
from harness.analysis.submission_loader import Submission

Json = dict[str, Any]

BESIDE = (".json", ".csv")  # suffixes of the files that lie beside the page of a comparison


def document(comparison: Comparison) -> Json:
    """Return the document that `compare --json` prints."""
    rows = zip(comparison.submissions, comparison.power, strict=True)
    return {
        "submissions": [{**asdict(one), "power": [asdict(use) for use in power]} for one, power in rows],
        "ratios": [_pair(pair) for pair in comparison.pairs],
        "ranking": None if comparison.ranking is None else asdict(comparison.ranking),
        "costs": [_cost(one) for one in comparison.costs],
        "differences": list(comparison.differences),
        "notices": list(comparison.notices),
    }


def with_curves(comparison: Comparison, submissions: Sequence[Submission]) -> Json:
    """Return the same document with the evaluations of every run, for users' own plots."""
    return {**document(comparison), "curves": [_curves(submission) for submission in submissions]}


def _pair(pair: Pair) -> Json:
    ratios = pair.ratios
    names = ("official_score", "time_to_train", "samples_to_target", "throughput")
    found = _ratios(ratios) if ratios else dict.fromkeys(names)
    return {
        "submission": pair.submission,
        "baseline": pair.baseline,
        **found,
        "claims": {claim.quantity.value: _claim(claim) for claim in pair.claims},
        "verdict": pair.verdict,
        "conclusions": asdict(pair.conclusions),
    }


def _ratios(ratios: Ratios) -> Json:
    return {
        "official_score": _ratio(ratios.official_score),
        "time_to_train": _ratio(ratios.time_to_train),
        "samples_to_target": _ratio(ratios.samples_to_target),
        "samples_at_stop": _ratio(ratios.samples_at_stop),
        "throughput": _ratio(ratios.throughput),
        "seconds_per_sample": _ratio(ratios.seconds_per_sample),
        "decomposition": {factor.value: _ratio(ratio) for factor, ratio in ratios.factors.items()},
        "paired_samples_to_target": _ratio(ratios.paired_samples_to_target),
        "minimum_detectable_effect_pct": ratios.minimum_detectable_effect_pct,
        "runs_needed_for_2pct": ratios.runs_needed_for_2pct,
        "loss_gap": [
            {"samples": one.samples, "gap": one.gap, "ci95": _bounds(one.ci95)} for one in ratios.loss_gap
        ],
    }


def _ratio(ratio: Ratio | None) -> Json | None:
    return None if ratio is None else {"ratio": ratio.ratio, "ci95": _bounds(ratio.ci95)}


def _claim(claim: Claim) -> Json:
    """Return a claim about machines like these. The interval includes the spread between equal machines."""
    return {
        "ratio": claim.ratio.ratio,
        "ci95": _bounds(claim.ratio.ci95),
        "decided": claim.ratio.decided,
        "tau": [spread.tau for spread in claim.spreads],
        "basis": [spread.basis for spread in claim.spreads],
        "degrees_of_freedom": claim.freedom,
        "smallest_decided_pct": claim.smallest_decided_pct,
    }


def _cost(one: Cost) -> Json:
    return {**asdict(one), "against_baseline": _ratio(one.against_baseline)}


def _bounds(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _curves(submission: Submission) -> Json:
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
