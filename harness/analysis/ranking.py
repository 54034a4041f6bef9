"""Ranks submissions by score. Submissions that their runs cannot tell apart share a place.

Every pair is tested (Student's t on the logarithm of the ratio), with Holm's correction for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.analysis import decomposition, intervals, official_score, run_figures
from harness.analysis.decomposition import Factor
from harness.analysis.intervals import Estimate
from harness.analysis.submission_loader import Submission

LEVEL = 0.05  # over all pairs together
FEWEST = 3  # submissions; two are compared as a pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A submission in the ranking.

    Args:
        product: the system's name in its description.
        value: the score, in minutes or samples.
        first, last: the best and the worst place that its runs allow, from 1.
    """

    submission: str
    product: str
    value: float
    first: int
    last: int

    @property
    def text(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Args:
    score: official_score; time_to_train if a submission has fewer than ten runs; samples_to_target for the
        proxy, because its times mean nothing.
    places: sorted, the best first.
    ties: the largest groups of neighbours without a decided pair.
    decided: number of decided pairs.
    pairs: number of all pairs.
    unranked: submissions without a score, and why.
    """

    score: str
    places: tuple[Place, ...]
    ties: tuple[tuple[str, ...], ...]
    decided: int
    pairs: int
    unranked: tuple[tuple[str, str], ...]


def rank(submissions: Sequence[Submission]) -> Ranking | None:
    """Rank by the score that `Ranking` describes. None for fewer than three submissions."""
    if len(submissions) < FEWEST:
        return None
    score = _what(submissions)
    found = [(one.name, *_score(one, score)) for one in submissions]
    known = {name: estimate for name, estimate, _ in found if estimate is not None}
    products = {one.name: one.system for one in submissions}
    order = sorted(known, key=lambda name: known[name].value)
    apart = decided_pairs(known)
    places = tuple(
        Place(
            submission=name,
            product=products[name],
            value=known[name].value,
            first=1 + sum((better, name) in apart for better in order[:index]),
            last=len(order) - sum((name, worse) in apart for worse in order[index + 1 :]),
        )
        for index, name in enumerate(order)
    )
    return Ranking(
        score=score,
        places=places,
        ties=tie_groups(order, apart),
        decided=len(apart),
        pairs=len(order) * (len(order) - 1) // 2,
        unranked=tuple((name, why) for name, estimate, why in found if estimate is None),
    )


def _what(submissions: Sequence[Submission]) -> str:
    if submissions[0].is_proxy:
        return "samples_to_target"
    short = any(official_score.short_of_runs(one) for one in submissions)
    return "time_to_train" if short else "official_score"


def _score(one: Submission, score: str) -> tuple[Estimate | None, str]:
    """Return the score, or the reason why there is none."""
    if score == "official_score":
        return official_score.estimate(one), official_score.problem(one) or ""
    if why := run_figures.problem(one):
        return None, why
    if score == "time_to_train":
        return decomposition.estimates(one)[Factor.TIME_TO_TRAIN], ""
    samples = run_figures.target_samples(one)
    return (intervals.mean_of(samples), "") if samples else (None, "nothing brackets the target")


def decided_pairs(known: Mapping[str, Estimate]) -> set[tuple[str, str]]:
    """Return (better, worse) of every pair that Holm's procedure decides; skip pairs with too few runs."""
    tested = []
    for a, b in combinations(sorted(known, key=lambda name: known[name].value), 2):
        if (p := intervals.p_value(known[a], known[b])) is not None:
            tested.append((p, (a, b)))
    decided: set[tuple[str, str]] = set()
    for done, (p, pair) in enumerate(sorted(tested)):
        if p > LEVEL / (len(tested) - done):
            break
        decided.add(pair)
    return decided


def tie_groups(order: Sequence[str], apart: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Return the largest groups of neighbours without a decided pair; a submission may be in two groups."""
    groups: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and not any(
            (order[one], order[last + 1]) in apart for one in range(first, last + 1)
        ):
            last += 1
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(tuple(order[first : last + 1]) for first, last in groups)


_WORDS = {
    "official_score": ("official score (RCP-normalised)", "{:.3f}", " minutes"),
    "time_to_train": ("time to train", "{:.3f}", " minutes"),
    "samples_to_target": ("samples to target", "{:,.0f}", ""),
}


def title(ranking: Ranking) -> str:
    """Return the name of the score, with its unit."""
    name, _, unit = _WORDS[ranking.score]
    return f"{name},{unit}" if unit else name


def number(ranking: Ranking, value: float) -> str:
    """Return a score without its unit."""
    return _WORDS[ranking.score][1].format(value)


def sentence(ranking: Ranking) -> str:
    """Name the best submission, or those that share the first place."""
    if not ranking.places:
        return "No ranking: " + "; ".join(f"{name}: {why}" for name, why in ranking.unranked) + "."
    first = [place for place in ranking.places if place.first == 1]
    name, _, unit = _WORDS[ranking.score]
    best = number(ranking, ranking.places[0].value)
    known = f"{ranking.decided} of {ranking.pairs} pairs are decided (Holm, 5 % over all pairs)"
    if len(first) == 1:
        return f"{first[0].submission} has the best {name}, {best}{unit}. {known}."
    names = ", ".join(place.submission for place in first)
    worst = number(ranking, max(place.value for place in first))
    return f"Not decided which is first by {name}: {names} ({best} to {worst}{unit}). {known}."
