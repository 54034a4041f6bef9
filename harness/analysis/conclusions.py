"""Writes in words what can and what cannot be concluded from a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis import claims, official_score, required_notices, run_figures, wording
from harness.analysis.claims import Claim
from harness.analysis.index_selection import accelerator_of
from harness.analysis.intervals import FEWEST_RUNS, Ratio
from harness.analysis.loss_gap import Gap
from harness.analysis.machine_spread import Quantity, Spread
from harness.analysis.submission_loader import Submission

_WORDS = {Quantity.TIME: wording.TIME, Quantity.SAMPLES: wording.SAMPLES, Quantity.SPEED: wording.SPEED}
_SMALL_PCT = 0.1  # a bound below this is not mentioned
_NAMES = {Quantity.TIME: "time", Quantity.SAMPLES: "the number of samples", Quantity.SPEED: "speed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The ratios of A to B that the sentences describe.

    Args:
        official: ratio of the RCP-normalised scores; None if a side has none.
        paired: ratio of samples to target from pairs of runs with the same seed.
        claims: claims about machines like these.
        effect_pct: minimum detectable effect on the time.
        runs_needed: runs per side that detect an effect of 2 %.
        gap: difference of the losses at the last evaluation that every run reaches.
    """

    official: Ratio | None
    time: Ratio
    samples: Ratio | None
    speed: Ratio
    paired: Ratio | None
    claims: tuple[Claim, ...]
    effect_pct: float | None
    runs_needed: int | None
    gap: Gap | None

    @property
    def headline(self) -> Ratio:
        """Return the ratio of official scores, or of raw times if there are no scores."""
        return self.official or self.time


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusions:
    """Return sentences on what these runs show and what they do not show."""

    can: tuple[str, ...]
    cannot: tuple[str, ...]


def sentence(a: Submission, b: Submission, found: Found) -> str:
    """The answer in a few sentences, with what these runs do not decide."""
    runs = min(len(run_figures.converged(a)), len(run_figures.converged(b)))
    if a.is_proxy:
        parts, named = _proxy_sentences(a, b, found)
    else:
        samples = found.samples
        need = f"needs {wording.change(samples, wording.SAMPLES)} to the target and " if samples else ""
        rate = wording.change(found.speed, wording.SPEED)
        parts = [
            f"{a.name} takes {wording.change(found.headline, wording.TIME, b.name)}{_scores(a, b, found)}.",
            f"It {need}processes {rate}.",
        ]
        named = [("time", found.headline), ("samples", samples), ("speed", found.speed)]
    unsure = [name for name, ratio in named if ratio is not None and not ratio.decided]
    if unsure:
        enough = runs >= FEWEST_RUNS
        reason = "the 95 % interval includes no difference" if enough else "too few runs for an interval"
        parts.append(f"Not decided by {runs} run{'s' * (runs != 1)} a side: {', '.join(unsure)} ({reason}).")
    narrow = {Quantity.TIME: found.headline, Quantity.SPEED: found.speed}
    if found.samples is not None:
        narrow[Quantity.SAMPLES] = found.samples
    if beyond := [_NAMES[one.quantity] for one in claims.narrowly_decided(narrow, found.claims)]:
        parts.append(
            f"True of these two machines; of other machines like them not decided: {', '.join(beyond)}."
        )
    return " ".join(parts)


def _scores(a: Submission, b: Submission, found: Found) -> str:
    """Return official scores and raw times as sentences; nothing if a side has no official score."""
    scores = [official_score.estimate(side) for side in (a, b)]
    times = [run_figures.time_to_train_min(side) for side in (a, b)]
    if found.official is None or scores[0] is None or scores[1] is None:
        return ""
    raw = " and ".join(f"{minutes:.3f}" for minutes in times if minutes is not None)
    return (
        f": official scores (RCP-normalised) {scores[0].value:.3f} and {scores[1].value:.3f} minutes; "
        f"raw times {raw}, {wording.change(found.time, wording.TIME)}"
    )


def _proxy_sentences(
    a: Submission, b: Submission, found: Found
) -> tuple[list[str], list[tuple[str, Ratio | None]]]:
    """Convergence alone: the times of emulated formats on a toy model say nothing about hardware."""
    ratio = found.paired or found.samples
    shared = "With the same seeds and data order, " if found.paired else ""
    needs = (
        f"{shared}{a.name} needs {wording.change(ratio, wording.SAMPLES, b.name)} to the target."
        if ratio
        else ""
    )
    caution = "Times of emulated formats on a toy model say nothing about hardware."
    return [needs or "Both arms reach the target.", caution], [("samples", ratio)]


def conclusions(a: Submission, b: Submission, found: Found) -> Conclusions:
    """What can and what cannot be concluded from the ratios of A to B."""
    asked = [("samples to target", found.paired or found.samples, wording.FEWER)]
    if not a.is_proxy:
        asked = [
            ("official score", found.headline, wording.LOWER)
            if found.official
            else ("time to train", found.headline, wording.SHORTER),
            *asked,
            ("samples per second", found.speed, wording.FEWER),
        ]
    can, cannot = [], []
    for what, ratio, words in asked:
        if ratio is None:
            continue
        of_two, other = "" if a.is_proxy else ", these two machines", f"{b.name}'s"
        if ratio.decided:
            can.append(f"{a.name}'s {what}: {wording.change(ratio, words, other)}{of_two}.")
        else:
            cannot.append(f"Whether {what} differ{of_two}: {wording.change(ratio, words)}.")
    for one in found.claims:
        (can if one.ratio.decided else cannot).append(_claimed(a, b, one))
    if found.gap is not None and found.gap.low is not None and found.gap.high is not None:
        decided = not found.gap.low <= 0 <= found.gap.high
        (can if decided else cannot).append(_loss(a, b, found.gap, decided=decided))
    resolution = [] if a.is_proxy else [*_no_official_score(a, b, found), *_resolution(found)]
    return Conclusions(can=tuple(can), cannot=(*cannot, *_causes(a, b), *resolution))


def _claimed(a: Submission, b: Submission, claim: Claim) -> str:
    """Say which differences hold for machines like these, and which do not."""
    kinds = dict.fromkeys(map(_kind, (a, b)))
    subject = " against ".join(kinds) if len(kinds) > 1 else f"two systems of {next(iter(kinds))}"
    spread = " and ".join(dict.fromkeys(map(_spread, claim.spreads)))
    text = f"{wording.change(claim.ratio, _WORDS[claim.quantity])}; equal machines differ by {spread}"
    if claim.ratio.decided:
        return f"In general, {subject}: {text}."
    smallest = claim.smallest_decided_pct
    below = f", so that nothing below {smallest:.1f} % is decided" if smallest >= _SMALL_PCT else ""
    return f"Whether {_NAMES[claim.quantity]} differs in general, {subject}: {text}{below}."


def _kind(one: Submission) -> str:
    model = accelerator_of(one.accelerator, one.system) or one.accelerator or one.system
    return ", ".join(filter(None, (f"{one.accelerators or '?'}x {model}", one.precision, one.round)))


def _spread(one: Spread) -> str:
    return f"{100 * one.tau:.2g} % ({one.basis})"


def _no_official_score(a: Submission, b: Submission, found: Found) -> list[str]:
    """Explain why the headline compares raw times."""
    whys = [f"{side.name}: {why}" for side in (a, b) if (why := official_score.problem(side))]
    return [] if found.official or not whys else [f"How official scores compare: {'; '.join(whys)}."]


def _loss(a: Submission, b: Submission, gap: Gap, *, decided: bool) -> str:
    text = f"{gap.gap:+.4f} nats (95 % interval {gap.low:+.4f} to {gap.high:+.4f})"
    if decided:
        return f"{a.name}'s log perplexity after {gap.samples:,} samples: {text} against {b.name}'s."
    return f"Whether log perplexities after {gap.samples:,} samples differ: {text}."


def _causes(a: Submission, b: Submission) -> list[str]:
    """Explain which other differences could cause a result besides the precision."""
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
