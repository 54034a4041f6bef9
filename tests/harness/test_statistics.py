from __future__ import annotations

import random

import pytest

from compliance.score import olympic_mean
from harness import statistics


def noisy(mean, sd, runs, seed):
    generator = random.Random(seed)
    return [generator.gauss(mean, sd) for _ in range(runs)]


def test_a_ratio_of_the_same_runs_is_one_and_undecided():
    values = noisy(100, 3, 10, 1)
    ratio = statistics.bootstrap_ratio(values, values, olympic_mean)
    assert ratio.ratio == 1.0 and not ratio.decided


def test_a_large_difference_is_decided_and_lies_in_its_interval():
    ratio = statistics.bootstrap_ratio(noisy(87, 3, 10, 1), noisy(99, 3, 10, 2), olympic_mean)
    assert ratio.low < ratio.ratio < ratio.high < 1.0 and ratio.decided


def test_fewer_than_three_runs_give_no_interval():
    ratio = statistics.bootstrap_ratio([90.0, 91.0], [100.0, 99.0], lambda v: sum(v) / len(v))
    assert ratio.low is None and not ratio.decided


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Ten runs a side, true ratio 1: the bootstrap is a little too narrow at this size, but not much."""
    mean = statistics.fmean
    hits = 0
    for trial in range(40):
        ratio = statistics.bootstrap_ratio(
            noisy(100, 3.5, 10, trial), noisy(100, 3.5, 10, 1000 + trial), mean
        )
        hits += ratio.low <= 1.0 <= ratio.high
    assert hits >= 33


def test_ten_runs_as_noisy_as_published_ones_resolve_what_the_facts_say():
    """CV 3.5 % of samples at the stop: about 4.4 %; interpolated, 2.9 %: about 3.6 %."""
    for cv, effect in ((3.5, 4.4), (2.9, 3.6)):
        spread = [100 + cv * z for z in (-1.2, -0.9, -0.6, -0.3, -0.1, 0.1, 0.3, 0.6, 0.9, 1.2)]
        scaled = [100 + (x - 100) * cv / (100 * statistics.coefficient_of_variation(spread)) for x in spread]
        assert statistics.minimum_detectable_effect_pct(scaled, scaled) == pytest.approx(effect, abs=0.05)


def test_pairs_cancel_what_they_share():
    shared = noisy(100, 10, 6, 3)
    a, b = [1.02 * x for x in shared], shared
    paired, unpaired = statistics.paired_ratio(a, b), statistics.bootstrap_ratio(a, b, statistics.fmean)
    assert paired.ratio == pytest.approx(1.02)
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


def test_tests_of_significance_agree_with_the_eye():
    near, far = noisy(100, 3, 10, 1), noisy(80, 3, 10, 2)
    assert statistics.welch_p(near, far) < 1e-6 and statistics.permutation_p(near, far) < 0.01
    assert statistics.welch_p(near, near) == pytest.approx(1.0)
    assert statistics.welch_p([1.0], [2.0]) is None and statistics.permutation_p([1.0], [2.0]) is None
    assert statistics.welch_p([1.0, 1.0], [2.0, 2.0]) is None


def test_a_ratio_turned_round_turns_its_interval_round():
    ratio = statistics.Ratio(ratio=0.8, low=0.5, high=1.25)
    assert (ratio.inverse().ratio, ratio.inverse().low, ratio.inverse().high) == (1.25, 0.8, 2.0)
