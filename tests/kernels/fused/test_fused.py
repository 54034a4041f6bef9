"""The fused kernels equal their specification: in Triton's interpreter without a GPU, on the device with one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels.fused import reference, triton
from tests.kernels.conftest import DEVICE

BOTH = pytest.mark.parametrize("impl", [reference, triton], ids=["reference", "triton"])


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_parts_of_a_gradient_buffer_that_are_not_finite_are_found_where_the_norm_is_not(impl, dtype, bad):
    """Two buckets of three parts, the first of 10,000 elements: more than a kernel takes at once."""
    sizes = torch.tensor([10_000, 7], device=DEVICE)
    starts = torch.tensor([16, 30_100], device=DEVICE)
    buffer = torch.full((30_200,), 1e30, dtype=dtype, device=DEVICE)
    buffer[3] = buffer[30_050] = bad  # between buckets: padding
    buffer[16 + 2 * 10_000 - 1] = buffer[30_100 + 3] = bad
    norm = torch.tensor(bad, dtype=torch.float64, device=DEVICE)
    assert impl.parts_not_finite(norm, buffer, starts, sizes, 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert not impl.parts_not_finite(norm.new_tensor(2.0), buffer, starts, sizes, 3).any()


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def require_close(found, wanted, dtype):
    """FP32 to the last bits; in BF16 two units in the last place: Triton's interpreter cuts where a GPU rounds."""
    tolerance = 2e-6 if dtype is torch.float32 else 2.0**-6
    for got, right in zip(found, wanted, strict=True):
        assert got.dtype == right.dtype and got.shape == right.shape
        assert torch.allclose(got.float(), right.float(), rtol=tolerance, atol=tolerance)


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@DTYPES
@pytest.mark.parametrize(("groups", "heads", "half"), [(2, 4, 16), (1, 1, 12)])
def test_rope_and_its_gradient_equal_the_specification(dtype, groups, heads, half):
    """The second case fills no power of two; gradients come as attention leaves them, heads before positions."""
    S, B = 5, 2
    angles = draw(S, half, seed=1) * 40
    tables = angles.cos(), angles.sin()
    qkv = draw(S, B, groups, (heads + 2) * 2 * half, dtype=dtype)
    found = triton.rope(qkv, *tables, heads)
    require_close(found, reference.rope(qkv, *tables, heads), dtype)
    assert torch.equal(found[2].flatten(), qkv.view(S, B, groups, heads + 2, -1)[:, :, :, -1].flatten())
    gradients = [draw(B, x.size(2), S, 2 * half, seed=7, dtype=dtype).permute(2, 0, 1, 3) for x in found]
    wanted = reference.rope_backward(*gradients, *tables)
    require_close([triton.rope_backward(*gradients, *tables)], [wanted], dtype)


@DTYPES
def test_swiglu_and_its_gradient_equal_the_specification(dtype):
    x, dy = draw(3, 2 * 1500, dtype=dtype) * 3, draw(3, 1500, seed=1, dtype=dtype)
    require_close([triton.swiglu(x)], [reference.swiglu(x)], dtype)
    require_close([triton.swiglu_backward(dy, x)], [reference.swiglu_backward(dy, x)], dtype)


@DTYPES
def test_cross_entropy_of_a_shard_and_its_gradient_equal_the_specification(dtype):
    """10,000 columns are more than a kernel takes at once; the shard holds the labels from 5,000 on."""
    logits = draw(3, 10_000, dtype=dtype) * 8
    labels = torch.tensor([4_999, 5_000, 14_999], device=DEVICE)
    found = triton.cross_entropy(logits, labels, 5_000)
    require_close(found, reference.cross_entropy(logits, labels, 5_000), torch.float32)
    gradient = draw(3, seed=2)
    wanted = reference.cross_entropy_backward(logits.clone(), labels, found[0], gradient, 5_000)
    require_close([triton.cross_entropy_backward(logits, labels, found[0], gradient, 5_000)], [wanted], dtype)


@DTYPES
@pytest.mark.parametrize("adds", [True, False])
def test_norm_of_a_residual_stream_and_its_gradient_equal_the_specification(dtype, adds):
    T, H = 70, 48
    x, residual = draw(T, H, dtype=dtype), draw(T, H, seed=1, dtype=dtype) if adds else None
    gain = 1 + 0.1 * draw(H, seed=2, dtype=dtype)
    found, wanted = triton.norm(x, residual, gain, 1e-5), reference.norm(x, residual, gain, 1e-5)
    require_close(found, wanted, dtype)
    gradients = draw(T, H, seed=3, dtype=dtype), draw(T, H, seed=4, dtype=dtype)
    found = triton.norm_backward(*gradients, wanted[0], gain, wanted[2])
    wanted = reference.norm_backward(*gradients, wanted[0], gain, wanted[2])
    require_close([found[0], found[1] / 8], [wanted[0], wanted[1] / 8], dtype)  # the gain's are sums of 70
