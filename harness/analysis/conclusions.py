"""A comparison in words: what can and what cannot be concluded from it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis import required_notices, run_figures
from harness.analysis.intervals import FEWEST_RUNS, Ratio
from harness.analysis.loss_gap import Gap
from harness.analysis.submission_loader import Submission


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Ratios of A to B that the words are about.

    Args:
        paired: samples to target over runs of the same seed.
        effect_pct: minimum detectable effect on the time.
        runs_needed: a side, for an effect of 2 %.
        gap: of the losses at the last evaluation that every run reaches.
    """

    time: Ratio
    samples: Ratio | None
    speed: Ratio
    paired: Ratio | None
    effect_pct: float | None
    runs_needed: int | None
    gap: Gap | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """Sentences: what these runs show, and what they do not."""

    can: tuple[str, ...]
    cannot: tuple[str, ...]


def sentence(a: Submission, b: Submission, found: Found) -> str:
    """The answer in one or two sentences, with what these runs do not decide."""
    runs = min(len(run_figures.converged(a)), len(run_figures.converged(b)))
    if a.is_proxy:
        parts, named = _proxy_sentences(a, b, found)
    else:
        samples = found.samples
        need = f"needs {_samples(samples)} to the target and " if samples else ""
        rate = _percent(found.speed, "fewer samples per second", "more samples per second")
        time = _percent(found.time, "less time", "more time")
        parts = [f"{a.name} takes {time} than {b.name}. It {need}processes {rate}."]
        named = [("time", found.time), ("samples", samples), ("speed", found.speed)]
    unsure = [name for name, ratio in named if ratio is not None and not ratio.decided]
    if unsure:
        enough = runs >= FEWEST_RUNS
        reason = "the 95 % interval includes no difference" if enough else "too few runs for an interval"
        parts.append(f"Not decided by {runs} run{'s' * (runs != 1)} a side: {', '.join(unsure)} ({reason}).")
    return " ".join(parts)


def _proxy_sentences(
    a: Submission, b: Submission, found: Found
) -> tuple[list[str], list[tuple[str, Ratio | None]]]:
    """Convergence alone: the times of emulated formats on a toy model say nothing about hardware."""
    ratio = found.paired or found.samples
    shared = "With the same seeds and data order, " if found.paired else ""
    needs = f"{shared}{a.name} needs {_samples(ratio)} than {b.name} to the target." if ratio else ""
    caution = "Times of emulated formats on a toy model say nothing about hardware."
    return [needs or "Both arms reach the target.", caution], [("samples", ratio)]


def conclusions(a: Submission, b: Submission, found: Found) -> Conclusions:
    """What can and what cannot be concluded from the ratios of A to B."""
    asked = [("samples to target", found.paired or found.samples, "fewer", "more")]
    if not a.is_proxy:
        asked = [
            ("time to train", found.time, "shorter", "longer"),
            *asked,
            ("samples per second", found.speed, "fewer", "more"),
        ]
    can, cannot = [], []
    for what, ratio, less, more in asked:
        if ratio is None:
            continue
        if ratio.decided:
            can.append(f"{a.name}'s {what}: {_percent(ratio, less, more)} than {b.name}'s.")
        else:
            cannot.append(f"Whether {what} differ: {_percent(ratio, less, more)}.")
    if found.gap is not None and found.gap.low is not None and found.gap.high is not None:
        decided = not found.gap.low <= 0 <= found.gap.high
        (can if decided else cannot).append(_loss(a, b, found.gap, decided=decided))
    resolution = [] if a.is_proxy else _resolution(found)
    return Conclusions(can=tuple(can), cannot=(*cannot, *_causes(a, b), *resolution))


def _loss(a: Submission, b: Submission, gap: Gap, *, decided: bool) -> str:
    text = f"{gap.gap:+.4f} nats (95 % interval {gap.low:+.4f} to {gap.high:+.4f})"
    if decided:
        return f"{a.name}'s log perplexity after {gap.samples:,} samples: {text} against {b.name}'s."
    return f"Whether log perplexities after {gap.samples:,} samples differ: {text}."


def _causes(a: Submission, b: Submission) -> list[str]:
    """Why a difference is not the precision's alone."""
    lines = []
    if "unknown" in (a.precision, b.precision):
        lines.append("What the precision does: a side does not state it.")
    elif a.precision != b.precision and (others := required_notices.confounders(a, b)):
        lines.append(f"What the precision alone does: also different or not stated: {', '.join(others)}.")
    if a.accelerators != b.accelerators:
        lines.append("Which accelerator is faster: their numbers differ.")
    return lines


def _resolution(found: Found) -> list[str]:
    if found.effect_pct is None:
        return ["Anything about noise: an interval needs three converged runs a side."]
    needed = f"; 2 % would need {found.runs_needed} runs a side" if found.runs_needed else ""
    return [
        f"Differences of time below about {found.effect_pct:.1f} %: "
        f"these runs show larger ones with 80 % power{needed}."
    ]


def _samples(ratio: Ratio) -> str:
    return _percent(ratio, "fewer samples", "more samples")


def _percent(ratio: Ratio, less: str, more: str) -> str:
    change = 100 * (ratio.ratio - 1)
    text = f"{abs(change):.1f} % {less if change < 0 else more}"
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} (95 % interval {100 * (ratio.low - 1):+.1f} to {100 * (ratio.high - 1):+.1f} %)"
