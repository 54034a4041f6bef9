"""A sketch keeps lengths and angles, and a history tells a random walk from a drift."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.observe.sketch import LAGS, SIZE, History, Sketcher

HOME = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def matrices(shape: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices with a cosine of 0.6, their energy spread or gathered."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(192, 320, generator=generator) for _ in range(2))
    if shape == "column":
        a[:, 1:], b[:, 1:] = 0, 0
    elif shape == "row":
        a[1:], b[1:] = 0, 0
    elif shape == "rank one":
        right = torch.randn(1, 320, generator=generator)
        a, b = a[:, :1] * right, b[:, :1] * right
    b = b - (a * b).sum() / (a * a).sum() * a
    return a / a.norm(), 0.6 * a / a.norm() + 0.8 * b / b.norm()


@pytest.mark.parametrize("shape", ["spread", "column", "row", "rank one"])
def test_lengths_and_angles_survive(shape):
    """Mean over draws unbiased, deviation of one draw about 1 / sqrt(size), a little more for rank one."""
    a, b = matrices(shape)
    found = []
    for key in range(40):
        x, y = Sketcher(192, 320, key, HOME)(a, b)
        found.append([float(x @ x), float(y @ y), float(x @ y)])
    mean, deviation = torch.tensor(found).mean(0), torch.tensor(found).std(0)
    assert torch.allclose(mean, torch.tensor([1.0, 1.0, 0.6]), atol=0.02)
    assert float(deviation.max()) < 3.5 / math.sqrt(SIZE)


def test_a_sketch_is_linear_and_the_same_whenever_it_is_made():
    a, b = matrices("spread")
    first, again, other = (Sketcher(192, 320, key, HOME) for key in (7, 7, 8))
    one, two, both = first(a, b, a + 2 * b)
    assert torch.equal(one, again(a)[0])
    assert torch.allclose(both, one + 2 * two, atol=1e-5)
    assert abs(float(one @ other(a)[0])) < 0.1, "parts under different keys do not fall together"


def advanced(errors, gradients) -> list[dict]:
    history = History()
    return [
        history.advance(step, g, e)
        for step, (e, g) in enumerate(zip(errors, gradients, strict=True), start=10)
    ]


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))


def test_independent_errors_walk_at_random():
    found = advanced(noise(64, 1) * 0.1, noise(64, 2))
    assert found[-1]["looks"] == 64 and found[0]["mean"] is None and found[0]["lags"] == []
    assert [lag for lag, *_ in found[-1]["lags"]] == list(range(1, LAGS + 1))
    assert all(abs(cosine) < 0.08 for one in found for _, *cosines in one["lags"] for cosine in cosines)
    assert found[-1]["sum"]["error"] == pytest.approx(8, rel=0.05)
    assert found[-1]["error"] == pytest.approx(0.01, rel=0.1)


def test_an_error_with_a_fixed_direction_adds_up():
    fixed = noise(1, 3)
    found = advanced((noise(64, 1) + fixed) * 0.1, noise(64, 2))
    lag, error, rest, gradient = found[-1]["lags"][0]
    assert (lag, error, rest) == (1, pytest.approx(0.5, abs=0.05), pytest.approx(0.5, abs=0.05))
    assert abs(gradient) < 0.08
    assert found[-1]["sum"]["rest"] > 40 and found[-1]["mean"]["rest"] > 0.6


def test_shrinkage_along_a_gradient_that_lasts_is_told_from_the_rest():
    """Minus 10 % of the gradient and as much noise: alike over steps as the gradient is, its rest is not."""
    gradients = noise(32, 4) + 2 * noise(1, 5)
    found = advanced(-0.1 * gradients + 0.1 * noise(32, 6), gradients)[-1]
    _, error, rest, gradient = found["lags"][0]
    assert gradient == pytest.approx(0.8, abs=0.05) and found["bias"] == pytest.approx(-0.1, abs=0.01)
    assert error > 0.5 and abs(rest) < 0.08
    assert found["sum"]["rest"] == pytest.approx(math.sqrt(32), rel=0.1) and found["sum"]["error"] > 20


def test_a_step_without_numbers_is_left_out():
    history, g = History(), noise(1, 1)[0]
    assert history.advance(1, g, torch.full((SIZE,), math.nan)) is None
    assert (
        history.advance(2, g, torch.zeros(SIZE)) is None and history.advance(3, torch.zeros(SIZE), g) is None
    )
    assert history.advance(4, g, g)["looks"] == 1
