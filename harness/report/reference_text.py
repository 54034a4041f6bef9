"""The answer of `rcp` as text."""

from __future__ import annotations

from compliance.benchmark import BENCHMARK
from harness.analysis.reference_check import Verdict
from harness.base.text import plural, printable


def lines(verdict: Verdict) -> list[str]:
    """Write the verdict in a few lines: bounds, scored runs, the mean and its effect on the score."""
    head = f"{verdict.verdict:<9} {printable(verdict.directory, 400)}: batch size {verdict.global_batch_size}"
    bounds = (
        f"reference {verdict.reference_mean_samples:,.2f} samples, "
        f"smallest that passes {verdict.smallest_mean_samples:,.2f}"
    )
    said = [f"{head}, {bounds}"]
    if verdict.window:
        names = ", ".join(printable(path.rpartition("/")[2]) for path in verdict.window)
        said.append(
            f"  scored: of {verdict.runs} runs the ten consecutive ones with the median score: {names}"
        )
    if verdict.mean_samples is not None:
        margin = verdict.margin_pct or 0.0
        where = f"{abs(margin):.1f} % {'above' if margin >= 0 else 'below'} the smallest that passes"
        text = f"  trimmed mean {verdict.mean_samples:,.1f} samples, {where}"
        if verdict.normalisation is not None:
            text += (
                f"; {verdict.time_to_train_min:.3f} min x {verdict.normalisation:.5f}"
                f" = {verdict.time_to_train_normalized_min:.3f} min"
            )
        said.append(text)
    if verdict.why:
        said.append(f"  {printable(verdict.why, 400)}")
    if verdict.unreadable_records:
        said.append(f"  unreadable records: {verdict.unreadable_records}")
    if not verdict.valid:
        said.append(f"  {plural(verdict.runs, 'run')}; a valid score needs {BENCHMARK.runs}")
    return said
