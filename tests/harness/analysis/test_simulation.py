"""The statistics against a truth that is known: thousands of simulated submissions as noisy as the published ones."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import median

import numpy as np
import pytest

from harness.analysis import decomposition, intervals

RUNS = 10
PAIRS = 2_000
PHASES = 8  # where the mean crossing lies between two evaluations decides how many points the runs stop at
GRID = 0.07  # one evaluation interval, of a run
CROSSING_CV = 0.029  # with the grid on top: 3.5 % of samples at the stop, as published
SPEED_CV = 0.0017  # time per sample
EVALUATION_SHARE = 0.025


def draw(generator, mean, phase, shape):
    """Interpolated samples, samples at the stop and minutes of `shape` runs; a typical submission needs 1."""
    crossing = mean * (1 + CROSSING_CV * generator.standard_normal(shape))
    stop = (np.ceil(crossing / GRID - phase) + phase) * GRID
    return crossing, stop, stop * (1 + SPEED_CV * generator.standard_normal(shape))


def figures_of(crossing, stop, minutes):
    """Every factor of submissions of ten runs each: arrays (submissions, runs)."""
    return [
        decomposition.estimates_of(
            decomposition.Runs(
                minutes=m, stop=s, target=c, training=m * (1 - EVALUATION_SHARE), one_failed=False
            )
        )
        for c, s, m in zip(crossing, stop, minutes, strict=True)
    ]


def truth(generator, mean, phase):
    """What each factor is on average over many submissions."""
    crossing, stop, minutes = draw(generator, mean, phase, (20_000, RUNS))
    order = np.argsort(minutes, axis=-1)[:, 1:-1]
    kept = [np.mean(np.take_along_axis(values, order, axis=-1)) for values in (minutes, stop)]
    return {
        "time_to_train": kept[0],
        "samples_at_stop": kept[1],
        "samples_to_target": np.mean(crossing),
        "seconds_per_sample": 60 * kept[0] / kept[1],
    }


@lru_cache(maxsize=1)
def pairs():
    """(estimates of A, estimates of B, true ratios) of every simulated pair; A needs 4 % more samples."""
    generator = np.random.default_rng(20260101)
    found = []
    for phase in range(PHASES):
        sides = [(1.04, phase / PHASES), (1.0, (3 * phase + 1) % PHASES / PHASES)]
        known = [truth(generator, *side) for side in sides]
        drawn = [figures_of(*draw(generator, *side, (PAIRS // PHASES, RUNS))) for side in sides]
        true = {name: known[0][name] / known[1][name] for name in known[0]}
        found += [(a, b, true) for a, b in zip(*drawn, strict=True)]
    return found


@pytest.mark.parametrize(
    "name", ["time_to_train", "samples_at_stop", "samples_to_target", "seconds_per_sample"]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(name):
    found = [(intervals.ratio(a[name], b[name]), true[name]) for a, b, true in pairs()]
    assert len(found) == PAIRS
    covered = sum(ratio.low <= true <= ratio.high for ratio, true in found) / PAIRS
    assert 0.93 <= covered <= 0.97


def test_the_simulated_noise_is_the_published_one():
    _, stop, minutes = draw(np.random.default_rng(1), 1.0, 0.3, (4000, RUNS))
    assert np.mean(np.std(stop, axis=-1, ddof=1)) == pytest.approx(0.035, abs=0.003)
    assert np.std(minutes / stop) == pytest.approx(0.0017, rel=0.05)


def test_the_stated_minimum_detectable_effect_is_detected_four_times_in_five():
    """The effect is one of speed: it moves every interval by its logarithm, from the truth."""
    times = [(a["time_to_train"], b["time_to_train"], true["time_to_train"]) for a, b, true in pairs()]
    stated = median(intervals.minimum_detectable_effect_pct(a, b) for a, b, _ in times)
    size = math.log(1 + stated / 100)
    detected = 0
    for a, b, true in times:
        ratio = intervals.ratio(a, b)
        shift = size - math.log(true)
        detected += not math.log(ratio.low) + shift <= 0 <= math.log(ratio.high) + shift
    assert detected / PAIRS == pytest.approx(0.80, abs=0.03)


def test_the_runs_said_to_be_needed_have_the_power():
    """Samples to target, without the evaluation grid: 2 % more, with as many runs a side as asked for."""
    a, b, _ = pairs()[0]
    spread = intervals.Estimate(value=1.0, variance=CROSSING_CV**2 / RUNS, runs=RUNS)
    needed = intervals.runs_needed(spread, spread, 2.0)
    assert 25 < needed < 60
    generator = np.random.default_rng(3)
    detected = 0
    for _ in range(400):
        sides = [
            intervals.mean_of(mean * (1 + CROSSING_CV * generator.standard_normal(needed)))
            for mean in (1.02, 1.0)
        ]
        detected += intervals.ratio(*sides).decided
    assert detected / 400 == pytest.approx(0.80, abs=0.06)
    assert intervals.runs_needed(a["time_to_train"], b["time_to_train"], 2.0) > needed
