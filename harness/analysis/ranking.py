"""Several submissions in the order of their scores; what their runs do not tell apart shares a place.

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

LEVEL = 0.05  # of all pairs together
FEWEST = 3  # submissions: two are a pair


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A submission in the ranking.

    Args:
        product: its system's name in the description.
        value: its score, minutes or samples.
        first, last: the places that these runs leave open for it, from 1.
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
    score: what was ranked: official_score; time_to_train where a submission is no result of ten runs;
        samples_to_target of the proxy, whose times say nothing.
    places: the best first.
    ties: groups of neighbours of which no pair is decided, the largest ones, of two or more.
    decided, pairs: how many pairs are decided, of how many.
    unranked: submissions without a score, and why.
    """

    score: str
    places: tuple[Place, ...]
    ties: tuple[tuple[str, ...], ...]
    decided: int
    pairs: int
    unranked: tuple[tuple[str, str], ...]


def rank(submissions: Sequence[Submission]) -> Ranking | None:
    """By official scores; by times where one of them is no result of the benchmark yet. None of fewer than three."""
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
    """The score, or why there is none."""
    if score == "official_score":
        return official_score.estimate(one), official_score.problem(one) or ""
    if why := run_figures.problem(one):
        return None, why
    if score == "time_to_train":
        return decomposition.estimates(one)[Factor.TIME_TO_TRAIN], ""
    samples = run_figures.target_samples(one)
    return (intervals.mean_of(samples), "") if samples else (None, "nothing brackets the target")


def decided_pairs(known: Mapping[str, Estimate]) -> set[tuple[str, str]]:
    """(better, worse) of every pair that Holm's procedure decides; pairs with too few runs are none."""
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
    """The largest groups of neighbours of which no pair is decided; a submission may stand in two of them."""
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
    """What was ranked, with its unit."""
    name, _, unit = _WORDS[ranking.score]
    return f"{name},{unit}" if unit else name


def number(ranking: Ranking, value: float) -> str:
    """A score without its unit."""
    return _WORDS[ranking.score][1].format(value)


def sentence(ranking: Ranking) -> str:
    """The answer over several submissions; it names the best, or those that share the first place."""
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
