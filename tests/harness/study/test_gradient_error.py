"""The parts of a gradient's error, on gradients whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from harness.study.gradient_error import gradient_error

SIZE, ALONG, ACROSS = 200, -0.05, 0.07


def drawn(generator, n, *, along=ALONG, across=ACROSS):
    """Parts of n gradients with noise, whose errors have a known share along and across their mean."""
    mean, aside = generator.standard_normal((2, SIZE))
    mean /= np.linalg.norm(mean)
    aside -= aside @ mean * mean
    aside /= np.linalg.norm(aside)
    noise = generator.standard_normal((n, SIZE)) * np.sqrt(n / SIZE) / 3  # n |mean|^2 / E|g|^2 is about 8
    g = mean + noise
    e = (
        along * mean
        + across * aside
        + 0.3 * generator.standard_normal((n, SIZE)) / np.sqrt(SIZE)
        + 0.02 * noise
    )
    return gradient_error(g @ g.T, e @ g.T, e @ e.T)


@pytest.mark.parametrize("n", [32, 96])
@pytest.mark.parametrize("repetitions", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_estimates_are_unbiased_and_their_intervals_cover(n, repetitions):
    generator = np.random.default_rng(n)
    found = [drawn(generator, n) for _ in range(repetitions)]
    for name, true in (("along", ALONG), ("across", ACROSS**2)):
        values = np.array([getattr(one, name).value for one in found])
        errors = np.array([getattr(one, name).se for one in found])
        spread = values.std(ddof=1)
        room = 1 if repetitions == 2_000 else 2  # fewer repetitions know the true error less well
        assert abs(values.mean() - true) < (0.1 + 2 / np.sqrt(repetitions)) * spread, name
        assert np.sqrt((errors**2).mean()) == pytest.approx(spread, rel=0.1 * room), name
        covered = (abs(values - true) < 1.96 * errors).mean()
        assert 0.90 - 0.03 * (room - 1) <= covered <= 0.98, (name, covered)


def test_equal_recipes_leave_exactly_nothing():
    g = np.random.default_rng(1).standard_normal((8, SIZE))
    found = gradient_error(g @ g.T, np.zeros((8, 8)), np.zeros((8, 8)))
    assert (found.along.value, found.along.se, found.across.value, found.across.se) == (0, 0, 0, 0)
    assert found.random == found.total == 0


def test_stochastic_errors_are_random_and_not_systematic():
    generator = np.random.default_rng(3)
    found = [drawn(generator, 96, along=0.0, across=0.0) for _ in range(40)]
    assert abs(np.mean([one.across.value for one in found])) < 3e-5
    assert np.mean([one.random for one in found]) > 0.05


def test_a_mean_gradient_in_noise_is_not_clear():
    generator = np.random.default_rng(4)
    g = generator.standard_normal((16, SIZE))
    assert not gradient_error(g @ g.T, g @ g.T, g @ g.T).is_clear


def test_too_few_batches_are_refused():
    with pytest.raises(ValueError, match="allowed: equal squares of 4"):
        gradient_error(np.eye(3), np.eye(3), np.eye(3))
