"""Claims about kinds of machines, rankings and words, against truths that are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.analysis import (
    claims,
    comparison,
    intervals,
    machine_spread,
    official_score,
    public_index,
    ranking,
    wording,
)
from harness.analysis.decomposition import Runs
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.machine_spread import Quantity, System
from tests.harness.analysis.test_simulation import EVALUATION_SHARE, draw

PAIRS = 2_000
WITHIN = 0.0017  # time per sample, of a run


def systems(generator, tau, count):
    """Mean logarithms of nominally equal machines' speeds and the variances of these means, of ten runs each."""
    values = tau * generator.standard_normal((count, 1)) + WITHIN * generator.standard_normal((count, 10))
    means, variances = values.mean(axis=1), values.var(axis=1, ddof=1) / 10
    return [System(mean=float(m), variance=float(v)) for m, v in zip(means, variances, strict=True)]


def estimate(one):
    return Estimate(value=math.exp(one.mean), variance=one.variance, runs=10)


def decided_shares(tau, sizes):
    """Of pairs of two other equal systems, and of two of the class; tau is estimated anew in every draw."""
    generator, decided = np.random.default_rng(20260101), [0, 0]
    for _ in range(PAIRS):
        drawn = iter(systems(generator, tau, sum(sizes) + 2))
        classes = [[next(drawn) for _ in range(size)] for size in sizes]
        spread = machine_spread.of_classes(classes, "simulated")
        between = machine_spread.between(spread, spread)
        for place, pair in enumerate((list(drawn), classes[0][:2])):
            decided[place] += intervals.ratio(*map(estimate, pair), between).decided
    return [count / PAIRS for count in decided]


@pytest.mark.parametrize(
    ("tau", "sizes"),
    [(0.0085, [7]), (0.0236, [4]), (0.0145, [5]), (0.025, [3, 3, 2, 2, 2, 2, 2])],
    ids=["8x B200", "8x MI355X fp8", "8x MI355X mxfp4", "small classes pooled"],
)
def test_equal_machines_are_told_apart_no_oftener_than_the_level_says(tau, sizes):
    assert max(decided_shares(tau, sizes)) <= 0.06


def test_machines_of_two_classes_are_told_apart_no_oftener_than_the_level_says():
    generator, decided = np.random.default_rng(3), 0
    for _ in range(PAIRS):
        spreads = [
            machine_spread.of_classes([systems(generator, tau, size)], f"{size}")
            for tau, size in ((0.0236, 4), (0.0145, 5))
        ]
        sides = [estimate(systems(generator, tau, 1)[0]) for tau in (0.0236, 0.0145)]
        decided += intervals.ratio(*sides, machine_spread.between(*spreads)).decided
    assert decided / PAIRS <= 0.06


@pytest.fixture(scope="module")
def entries():
    return public_index.read()


@pytest.fixture(scope="module")
def classes(entries):
    return machine_spread.classes_of(entries)


def named(entries, *names):
    return [public_index.submission(public_index.find(entries, name)) for name in names]


def test_the_spread_of_the_index_is_the_known_one(entries, classes):
    fp8, b200, h100 = named(entries, "v5.1/AMD/MI355X", "SYS-422GS", "hpf_n16")
    speed = machine_spread.spread_of(fp8, Quantity.SPEED, classes)
    assert (speed.tau, speed.freedom) == (pytest.approx(0.0236, abs=1e-4), 3)
    between = machine_spread.between(speed, speed)
    assert 100 * math.expm1(intervals.decided_from(between)) == pytest.approx(11.2, abs=0.1)
    speed = machine_spread.spread_of(b200, Quantity.SPEED, classes)
    assert (speed.tau, speed.freedom) == (pytest.approx(0.0085, abs=1e-4), 6)
    pooled = machine_spread.spread_of(h100, Quantity.SPEED, classes)
    assert pooled.freedom > 6 and "classes of two or three" in pooled.basis


def test_a_machine_of_no_round_is_like_the_newest_of_its_kind(entries, classes):
    [one] = named(entries, "v6.0/MiTAC/8xMI355X")
    own = dataclasses.replace(one, round=None)
    assert machine_spread.kind_of(own, classes).round == "v6.0"
    unknown = dataclasses.replace(own, accelerator="Acme X1", system="box")
    assert machine_spread.kind_of(unknown, classes) is None
    assert "classes of two or three" in machine_spread.spread_of(unknown, Quantity.SPEED, classes).basis


def test_no_pair_of_equal_b200_systems_is_told_apart_in_general(entries, classes):
    equal = [
        public_index.submission(one)
        for one in entries
        if (one.accelerators, one.precision, one.round) == (8, "nvfp4", "v5.1") and "B200" in one.accelerator and
        "GB200" not in one.accelerator
    ]  # fmt: skip
    assert len(equal) == 7
    narrow = wide = 0
    for index, a in enumerate(equal):
        for b in equal[index + 1 :]:
            [speed] = [one for one in claims.claims(a, b, classes) if one.quantity is Quantity.SPEED]
            wide += speed.ratio.decided
            sides = [claims.estimates(side)[Quantity.SPEED] for side in (a, b)]
            narrow += intervals.ratio(*sides).decided
    assert narrow >= 15 and wide == 0


def test_what_is_true_of_two_machines_alone_is_said_to_be(entries, classes):
    compared = comparison.compare(named(entries, "SYS-422GS", "nebius_b200_n1"), classes)
    [pair] = compared.pairs
    assert "True of these two machines; of other machines like them not decided: speed." in pair.verdict
    assert any("nothing below 3.0 % is decided" in line for line in pair.conclusions.cannot)


def test_the_headline_is_of_official_scores_with_raw_times_below(entries, classes):
    compared = comparison.compare(named(entries, "v6.0/AMD/MI355X", "v5.1/AMD/MI355X"), classes)
    verdict = compared.pairs[0].verdict
    assert verdict.startswith(
        "MI355X_EPYC_9575F_primus takes 12.9 % less time than MI355X_EPYC_9575F_pytorch (10.4 to 15.3 % less): "
        "official scores (RCP-normalised) 86.845 and 99.709 minutes; raw times 86.845 and 99.310, 12.6 % less time"
    )
    assert compared.ranking is None


@pytest.mark.parametrize("reference", [1.02, 1.1], ids="a reference mean of {}".format)
def test_the_interval_of_the_official_score_covers_the_truth(reference):
    """Normalised half of the time, and always."""
    generator = np.random.default_rng(5)
    covered, pairs = 0, 200
    sides = [(1.0, 0.1), (1.04, 0.7)]
    true = [float(np.mean(scores(draw(generator, *side, (20_000, 10)), reference))) for side in sides]
    drawn = [draw(generator, *side, (pairs, 10)) for side in sides]
    for index in range(pairs):
        a, b = (official_estimate([values[index] for values in side], reference) for side in drawn)
        ratio = intervals.ratio(a, b)
        covered += ratio.low <= true[0] / true[1] <= ratio.high
    assert 0.90 <= covered / pairs <= 1.0


def scores(drawn, reference):
    _, stop, minutes = (np.sort(values, axis=-1)[..., 1:-1].mean(axis=-1) for values in drawn)
    return minutes * np.maximum(1.0, reference / stop)


def official_estimate(drawn, reference):
    crossing, stop, minutes = drawn
    training = minutes * (1 - EVALUATION_SHARE)
    runs = Runs(minutes=minutes, stop=stop, target=crossing, training=training, one_failed=False)
    variance = official_score.variance_of_score(runs, reference)
    return Estimate(value=float(scores(drawn, reference)), variance=variance, runs=len(minutes))


def test_holm_decides_no_pair_of_eight_equal_systems_in_nineteen_comparisons_of_twenty():
    generator, wrong = np.random.default_rng(7), 0
    for _ in range(200):
        values = 1 + 0.03 * generator.standard_normal((8, 10))
        known = {f"{index}": intervals.mean_of(row) for index, row in enumerate(values)}
        wrong += bool(ranking.decided_pairs(known))
    assert wrong / 200 <= 0.08


def test_neighbours_that_no_pair_tells_apart_share_a_place():
    apart = {("a", "c"), ("a", "d"), ("b", "d")}
    assert ranking.tie_groups(["a", "b", "c", "d"], apart) == (("a", "b"), ("b", "c"), ("c", "d"))
    assert ranking.tie_groups(["a", "b"], {("a", "b")}) == ()


def test_a_ranking_names_no_first_where_the_runs_leave_it_open(entries):
    names = ("v5.1/Dell/XE9785L", "v6.0/MiTAC/8xMI355X", "v6.0/Dell", "v6.0/Supermicro")
    found = ranking.rank(named(entries, *names))
    assert [place.text for place in found.places] == ["1-3", "1-3", "1-3", "4"]
    assert [place.value for place in found.places] == sorted(place.value for place in found.places)
    assert found.ties == (tuple(place.submission for place in found.places[:3]),)
    assert "Not decided which is first" in ranking.sentence(found)
    assert ranking.sentence(ranking.rank(named(entries, *names[:2], "theia_ngpu512"))).startswith(
        "theia_ngpu512_ngc25.09_nemo has the best official score (RCP-normalised), 5.219 minutes."
    )


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ((0.874, 0.841, 0.91), "12.6 % less time than B (9.0 to 15.9 % less)"),
        ((1.049, 1.019, 1.081), "4.9 % more time than B (1.9 to 8.1 % more)"),
        ((0.988, 0.97, 1.017), "1.2 % less time than B (3.0 % less to 1.7 % more)"),
        ((2.31, 2.1, 2.5), "2.3 times as long as B (2.1 to 2.5 times)"),
        ((0.9, None, None), "10.0 % less time than B"),
    ],
)
def test_an_interval_is_told_in_the_direction_of_its_difference(ratio, words):
    value, low, high = ratio
    assert wording.change(Ratio(ratio=value, low=low, high=high), wording.TIME, "B") == words


def test_samples_to_target_are_one_number(entries):
    """The factor of the ratio of times is the ratio of the means over all runs, and the product still holds."""
    [pair] = comparison.compare(named(entries, "v6.0/AMD/MI355X", "v5.1/AMD/MI355X")).pairs
    factors = pair.ratios.factors
    assert factors["samples_to_target"] == pair.ratios.samples_to_target
    product = math.prod(
        factors[name].ratio for name in ("samples_to_target", "evaluation_grid", "seconds_per_sample")
    )
    assert product == pytest.approx(factors["time_to_train"].ratio, rel=1e-12)
