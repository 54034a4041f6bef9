"""Forecast of a running campaign, as numbers and text: band of public runs, samples and time to the target."""

from __future__ import annotations

import math
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
        samples_at_stop: at the first evaluation after the predicted crossing, where the run stops.
        time_to_target_s: from now to the crossing; None where the prediction or the speed is unknown.
        time_to_stop_s: from now to the end of that evaluation, with the evaluations until then.
        error_s: error of these times, from the error of the samples; None without calibration.
    """

    band: Band | None
    reference_samples: float | None
    outlook: Outlook
    samples_at_stop: int | None
    time_to_target_s: float | None
    time_to_stop_s: float | None
    error_s: float | None


def look(
    evaluations: Sequence[Evaluation],
    config: Config,
    *,
    samples: int,
    samples_per_s: float | None,
    evaluation_s: float | None,
) -> View:
    """The forecast for a run that has trained `samples` samples.

    Args:
        config: of the run: its first arm is the run's.
        evaluation_s: seconds of an evaluation, as far as they are known.
    """
    size = config.batch.global_batch_size
    found = forecast.predict(
        evaluations,
        global_batch_size=size,
        target=config.evaluation.target_log_perplexity,
        benchmark=config.benchmark.name,
        precision=config.recipes[config.arms[config.runs.arms[0]].recipe].fprop.format,
    )
    if found.samples is not None and samples and found.samples > _IN_SIGHT * samples:
        found = replace(
            found, samples=None, error_pct=None, why="the loss curve is too short to predict the target"
        )
    stop = None if found.samples is None else _stop(found.samples, samples, config.eval_interval_samples)
    to_go_s, to_stop_s, error_s = None, None, None
    if found.samples is not None and stop is not None and samples_per_s:
        to_go_s = max(found.samples - samples, 0.0) / samples_per_s
        left = stop // config.eval_interval_samples - samples // config.eval_interval_samples
        to_stop_s = (stop - samples) / samples_per_s + left * (evaluation_s or 0.0)
        if found.error_pct is not None:
            error_s = found.samples * found.error_pct / 100 / samples_per_s
    at = evaluations[-1].samples if evaluations else 0
    return View(
        band=forecast.band(size, at, benchmark=config.benchmark.name),
        reference_samples=_reference(config),
        outlook=found,
        samples_at_stop=stop,
        time_to_target_s=to_go_s,
        time_to_stop_s=to_stop_s,
        error_s=error_s,
    )


def _stop(target: float, samples: int, interval: int) -> int:
    """Samples at the first evaluation after the crossing; a run that is past it stops at its next evaluation."""
    return interval * max(math.ceil(target / interval), samples // interval + 1)


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
    """`target near 176,400 samples +-4.5 % (reference 178,859), ends in about 46 min +-4 min`, or why not."""
    found = view.outlook
    if found.samples is None:
        return found.why
    error = f" +-{found.error_pct:.1f} %" if found.error_pct is not None else f", {found.why}"
    reference = f" (reference {view.reference_samples:,.0f})" if view.reference_samples else ""
    text = f"target near {found.samples:,.0f} samples{error}{reference}"
    if view.time_to_stop_s is None:
        return text
    spread = f" +-{duration(view.error_s)}" if view.error_s is not None else ""
    return f"{text}, ends in about {duration(view.time_to_stop_s)}{spread}"


def memory(memory_bytes: object) -> str | None:
    """`78.1 GiB`; None where the value is not a number of bytes."""
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes <= 0:
        return None
    return f"{memory_bytes / 2**30:.1f} GiB"
