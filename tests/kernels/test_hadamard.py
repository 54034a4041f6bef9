from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kernels.hadamard import hadamard, matrix


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_the_transform_is_symmetric_and_orthogonal(size):
    rows = hadamard(torch.eye(size), size)
    assert torch.equal(rows, rows.t())
    assert torch.allclose(rows @ rows, torch.eye(size), atol=1e-6)
    assert torch.equal(rows[0], torch.full((size,), size**-0.5))


def test_sixteen_points_are_two_independent_transforms_per_block_of_32():
    x = torch.randn(3, 32)
    assert torch.equal(hadamard(x, 16)[:, 16:], hadamard(x[:, 16:].contiguous(), 16))


def test_the_transform_cancels_in_a_gemm():
    a, b = torch.randn(40, 64), torch.randn(24, 64)
    assert torch.allclose(hadamard(a, 16) @ hadamard(b, 16).t(), a @ b.t(), atol=1e-4)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_the_matrix_gives_the_same_transform_signs_included(size):
    x, signs = torch.randn(64, 256), 1.0 - 2.0 * torch.randint(0, 2, (size,))
    product = x.view(64, -1, size) @ matrix(size, signs) / size**0.5
    assert torch.allclose(hadamard(x, size, signs), product.view(64, 256), atol=1e-5)


def test_signs_cancel_in_a_gemm_only_when_both_operands_have_the_same():
    a, b = torch.randn(40, 64), torch.randn(24, 64)
    signs = torch.tensor([1.0, -1.0] * 8)
    same = hadamard(a, 16, signs) @ hadamard(b, 16, signs).t()
    assert torch.allclose(same, a @ b.t(), atol=1e-4)
    assert not torch.allclose(
        hadamard(a, 16, signs) @ hadamard(b, 16, signs * torch.tensor([-1.0] + [1.0] * 15)).t(),
        a @ b.t(),
        atol=1e-1,
    )


def test_a_sum_that_is_zero_is_positive_zero():
    assert not torch.signbit(hadamard(torch.full((1, 16), -0.0), 16)).any()


def test_a_size_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        hadamard(torch.zeros(1, 24), 24)


def test_the_matrix_is_made_once_and_not_taken_from_a_trace():
    first = matrix(16, dtype=torch.bfloat16, scale=0.25)
    assert matrix(16, dtype=torch.bfloat16, scale=0.25) is first
    assert torch.equal(first.float() * 4, matrix(16)) and matrix(16) is not first
    with FakeTensorMode():
        assert matrix(16) is matrix(16) and isinstance(matrix(16), FakeTensor)
    assert type(matrix(16)) is torch.Tensor and matrix(16).sum() == 16


def test_signs_change_the_rows_and_not_the_matrix_that_is_kept():
    before = matrix(16).clone()
    signed = matrix(16, torch.full((16,), -1.0), scale=0.25, dtype=torch.bfloat16)
    assert torch.equal(signed.float(), -0.25 * before) and signed.dtype is torch.bfloat16
    assert torch.equal(matrix(16), before)
