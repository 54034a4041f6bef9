from __future__ import annotations

import pytest
import torch

from kernels.hadamard import butterfly, hadamard


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_transform_is_symmetric_and_orthogonal(size):
    matrix = hadamard(torch.eye(size), size)
    assert torch.equal(matrix, matrix.t())
    assert torch.allclose(matrix @ matrix, torch.eye(size), atol=1e-6)
    assert torch.equal(matrix[0], torch.full((size,), size**-0.5))


def test_sixteen_points_are_two_independent_transforms_per_block_of_32():
    x = torch.randn(3, 32)
    assert torch.equal(hadamard(x, 16)[:, 16:], hadamard(x[:, 16:].contiguous(), 16))


def test_the_transform_cancels_in_a_gemm():
    a, b = torch.randn(40, 64), torch.randn(24, 64)
    assert torch.allclose(hadamard(a, 16) @ hadamard(b, 16).t(), a @ b.t(), atol=1e-4)


def test_both_orders_of_summation_agree():
    x = torch.randn(64, 128)
    assert torch.allclose(hadamard(x, 16), butterfly(x, 16), atol=1e-6)


def test_a_size_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        hadamard(torch.zeros(1, 24), 24)
