"""Replaces operators that are one kernel on a GPU but several calls in a CPU build of torch, to count them as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from submission.rehearsal.counter import Counts

# places of operands that a kernel reads only where something is wrong
_UNREAD = {"parts_not_finite_kernel": (1,)}


def install(counts: Counts) -> None:
    """Replace attention and norm, which torch splits into several operators without a GPU, and all Triton launches."""
    from kernels.quantize.triton import quantize_kernel

    def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        return _RmsNorm.apply(x, weight, counts)

    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Attention.apply(query, key, value, counts)

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        read_again = arguments[4:5] if options.get("ACCUMULATE") else ()  # kernels/matmul/triton.py: c
        name = kernel.fn.__name__
        moved = [x for place, x in enumerate(arguments) if place not in _UNREAD.get(name, ())]
        counts.launch(name, (*_operands(moved), *read_again), values=(grid, arguments, options))

    real_tensor = torch.tensor

    def tensor(data: Any, *arguments: Any, **options: Any) -> Tensor:
        # torch.tensor reads the tensors of a list below all modes, so Counts would miss these reads
        values = tree_map(lambda leaf: leaf.item() if isinstance(leaf, Tensor) else leaf, data)
        return real_tensor(values, *arguments, **options)

    real_torch: Any = torch
    real_torch.tensor = tensor
    real_torch.nn.Module._apply = _apply
    real_torch.nn.functional.rms_norm = rms_norm
    real_torch.nn.functional.scaled_dot_product_attention = attention
    type(quantize_kernel).run = run


def block_scaled_product(*arguments: Any, **_: Any) -> Tensor:
    """The output of aten::_scaled_mm_v2 of packed E2M1 matrices (M, K / 2) and (K / 2, N), MXFP4 or NVFP4.

    torch's own shape function counts the two elements of a byte as one, and so refuses shapes that torch's kernels need
    (ATen/native/cuda/ScaledBlas.cpp, _scaled_mxfp4_mxfp4).

    Raises:
        ValueError: the number or the type of the scales is wrong.
    """
    a, b, scales_a, _, _, scales_b = arguments[:6]
    for rows, (scales, *of_tensor) in ((a.size(0), scales_a), (b.size(1), scales_b)):
        block, dtype = (16, torch.float8_e4m3fn) if of_tensor else (32, torch.float8_e8m0fnu)
        wanted = rows * a.size(1) * 2 // block
        if scales.dtype is not dtype or scales.numel() != wanted:
            raise ValueError(f"{scales.numel()} scales of {scales.dtype}; pass {wanted} of {dtype}")
    return torch.empty(a.size(0), b.size(1), dtype=torch.bfloat16, device=a.device)


def _apply(module: torch.nn.Module, function: Any, recurse: bool = True) -> torch.nn.Module:
    """Module._apply with new parameters: torch's own cannot change fake parameters in place."""
    for child in module.children() if recurse else ():
        _apply(child, function)
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        moved = function(parameter.detach())
        if (moved.device, moved.dtype) != (parameter.device, parameter.dtype):
            new = torch.nn.Parameter(moved, parameter.requires_grad)
            vars(new).update({key: value for key, value in vars(parameter).items() if key not in vars(new)})
            module._parameters[name] = new
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else function(buffer)
    return module


def _operands(arguments: Any) -> list[Tensor]:
    """The tensors of a launch, without repetitions: a caller passes an operand twice in place of an unused one."""
    found: dict[int, Tensor] = {}
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.setdefault(argument.untyped_storage()._cdata, argument)
    return list(found.values())


class _RmsNorm(torch.autograd.Function):
    """torch's _fused_rms_norm and its backward: one launch, and two (of the input's and of the gain's gradient)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, counts: Counts) -> Tensor:
        out = torch.empty_like(x)
        deviations = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, weight, deviations)
        ctx.counts = counts
        counts.launch("_fused_rms_norm", (x, weight, out, deviations))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, deviations = ctx.saved_tensors
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        moved = (x, weight, deviations, gradients[0])
        ctx.counts.launch("_fused_rms_norm_backward", (*moved, dx))
        ctx.counts.launch("_fused_rms_norm_backward", (x, deviations, gradients[0], dweight))
        return dx, dweight, None


class _Attention(torch.autograd.Function):
    """One fused kernel forward (cuDNN or flash attention), one backward; no (sequence, sequence) matrix in memory."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counts: Counts) -> Tensor:
        out = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.counts = counts
        counts.launch("attention", (query, key, value, out, sums))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, out, sums = ctx.saved_tensors
        made = [torch.empty_like(operand) for operand in (query, key, value)]
        ctx.counts.launch("attention_backward", (query, key, value, out, sums, gradients[0], *made))
        return made[0], made[1], made[2], None
