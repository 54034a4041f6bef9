"""What linears share: alignment of errors that vary together over micro batches, and of those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from harness.study.layer_alignment import alignment

N = 64


def products(rows):
    return rows @ rows.T


def errors(generator, *, common=None, width=200, constant=0.0):
    """Errors of one linear: noise, a part that all micro batches share, and one that follows `common`."""
    rows = generator.standard_normal((N, width)) + constant * np.eye(1, width)
    return rows if common is None else rows + 30 * common[:, None] * generator.standard_normal(width)


def test_independent_errors_have_no_alignment_and_a_constant_error_adds_none():
    generator = np.random.default_rng(1)
    for constant in (0.0, 20.0):
        found = [
            alignment([products(errors(generator, constant=constant)) for _ in range(4)]) for _ in range(100)
        ]
        mean, se = np.mean(found), np.std(found) / 10
        assert abs(mean) < 3 * se + 1e-3 and se < 0.01


def test_errors_that_follow_the_same_micro_batches_are_aligned():
    generator = np.random.default_rng(2)
    common = generator.standard_normal(N)
    assert alignment([products(errors(generator, common=common)) for _ in range(4)]) > 0.95


def test_a_scale_does_not_matter_and_equal_matrices_have_one():
    one = products(errors(np.random.default_rng(3)))
    assert alignment([one, 1e-9 * one]) == pytest.approx(1.0)


def test_without_errors_there_is_no_alignment():
    one = products(errors(np.random.default_rng(4)))
    assert alignment([np.zeros((N, N)), one]) is None
