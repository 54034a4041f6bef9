"""Forecast of a running campaign, as numbers and text: band of public runs, samples and time to the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from compliance import reference_points
from harness.analysis import forecast
from harness.analysis.forecast import Band, Outlook
from harness.contract.config import Config
from harness.records.metrics import Evaluation, duration

# a forecast of more than this many times the samples trained is not shown: the curve is too short for it
_IN_SIGHT = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Forecast for one run. It informs; nothing acts on it.

    Args:
        band: losses of public runs of this batch size at the last evaluation; None where there are too few runs.
        reference_samples: mean of the reference convergence point; None for the proxy and above batch size 128.
        time_to_target_s: from now; None where the prediction or the speed is unknown.
        error_s: error of that time, from the error of the samples; None without calibration.
    """

    band: Band | None
    reference_samples: float | None
    outlook: Outlook
    time_to_target_s: float | None
    error_s: float | None


def look(
    evaluations: Sequence[Evaluation], config: Config, *, samples: int, samples_per_s: float | None
) -> View:
    """The forecast for a run that has trained `samples` samples."""
    size = config.batch.global_batch_size
    found = forecast.predict(
        evaluations,
        global_batch_size=size,
        target=config.evaluation.target_log_perplexity,
        benchmark=config.benchmark.name,
    )
    if found.samples is not None and samples and found.samples > _IN_SIGHT * samples:
        found = replace(
            found, samples=None, error_pct=None, why="the loss curve is too short to predict the target"
        )
    to_go_s, error_s = None, None
    if found.samples is not None and samples_per_s:
        to_go_s = max(found.samples - samples, 0.0) / samples_per_s
        if found.error_pct is not None:
            error_s = found.samples * found.error_pct / 100 / samples_per_s
    at = evaluations[-1].samples if evaluations else 0
    return View(
        band=forecast.band(size, at, benchmark=config.benchmark.name),
        reference_samples=_reference(config),
        outlook=found,
        time_to_target_s=to_go_s,
        error_s=error_s,
    )


def _reference(config: Config) -> float | None:
    if config.benchmark.is_scaled:
        return None
    try:
        return reference_points.reference(config.batch.global_batch_size).mean_samples
    except reference_points.RcpError:
        return None


def loss(last: Evaluation, target: float, view: View) -> str:
    """`log perplexity 3.512 (target 3.3, public runs 3.495-3.584)`."""
    public = f", public runs {view.band.low:.3f}-{view.band.high:.3f}" if view.band else ""
    return f"log perplexity {last.log_perplexity:.3f} (target {target:g}{public})"


def way(view: View) -> str:
    """`target near 176,400 samples +-4.5 % (reference 178,859), in about 43 min +-4 min`, or why not."""
    found = view.outlook
    if found.samples is None:
        return found.why
    error = f" +-{found.error_pct:.1f} %" if found.error_pct is not None else f", {found.why}"
    reference = f" (reference {view.reference_samples:,.0f})" if view.reference_samples else ""
    text = f"target near {found.samples:,.0f} samples{error}{reference}"
    if view.time_to_target_s is None:
        return text
    spread = f" +-{duration(view.error_s)}" if view.error_s is not None else ""
    return f"{text}, in about {duration(view.time_to_target_s)}{spread}"


def memory(memory_bytes: object) -> str | None:
    """`78.1 GiB`; None where the value is not a number of bytes."""
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes <= 0:
        return None
    return f"{memory_bytes / 2**30:.1f} GiB"
