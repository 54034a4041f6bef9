"""MXFP4 as torch operators, torch.ops.fourmark.*: usable under torch.compile, in autograd and on meta tensors.

Every device accepts the same arguments, raises the same errors and gives the same bits. A GPU runs the Triton
kernels, a CPU the C++ path. Import this module to register them. `fourmark::linear` is in linear_op.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from kernels import architectures
from kernels.formats import BLOCK, E8M0_BIAS, E8M0_NAN, SCALE_TILE, require_blocks, unpack, unswizzled, values
from kernels.formats import E2M1 as _E2M1
from kernels.formats import swizzled as _swizzled
from kernels.hadamard import hadamard as transformed
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Prepared
from kernels.operand_use import Use
from kernels.philox import Draw
from kernels.quantize import cpu, reference
from kernels.recipe import Quantizer, Rounding, ScaleRule, Signs


@custom_op("fourmark::mxfp4_quantize", mutates_args=())
def mxfp4_quantize(
    x: Tensor, scale_rule: str = "even", hadamard: int = 0, transposed: bool = False, signs: Tensor | None = None,
    stochastic: bool = False, seed: int = 0, offset: int = 0, prescale: float = 1.0, swizzled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Elements (M, K // 2), low nibble first, and E8M0 scales (M, K // 32), both uint8, of (M, K) rounded to BF16.

    Args:
        transposed: quantise x^T instead: (K, M // 2) and (K, M // 32).
        signs: (hadamard,) FP32 of +1 and -1 before the transform.
        stochastic: round by the random words of (seed, offset), kernels/philox.py; both are 64 bits.
        prescale: the elements hold prescale times the value; give mxfp4_gemm the gain 1 / prescale^2.
        swizzled: scales flat in tiles of 128x4, as datacentre Blackwell reads them; past the end they are 0.

    Raises:
        ValueError: not a matrix of whole blocks, or an option that does not exist.
    """
    use = _use(x, scale_rule, hadamard, transposed, signs, stochastic, seed, offset, prescale)
    x = x.to(torch.bfloat16)
    if not x.is_cuda:
        view = x.t() if transposed else x
        found = cpu.quantize(view, use.quantizer, draw=use.draw, signs=use.signs)
        return found.elements, _swizzled(found.scales) if swizzled else found.scales
    from kernels.quantize import triton

    both = triton.quantize(x, *((None, use) if transposed else (use, None)), swizzled=swizzled)
    packed = both[1] if transposed else both[0]
    assert packed is not None
    return packed.elements, packed.scales


@custom_op("fourmark::mxfp4_quantize_dequantize", mutates_args=())
def mxfp4_quantize_dequantize(
    x: Tensor, scale_rule: str = "even", hadamard: int = 0, transposed: bool = False, signs: Tensor | None = None,
    stochastic: bool = False, seed: int = 0, offset: int = 0, prescale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Quantise to MXFP4 and dequantise: BF16 values (M, K), transposed (K, M), still transformed and pre-scaled.

    The gradient is straight-through: it treats quantisation as the identity, but includes the transform and
    the pre-scale. The arguments are those of mxfp4_quantize.
    """
    use = _use(x, scale_rule, hadamard, transposed, signs, stochastic, seed, offset, prescale)
    x = x.to(torch.bfloat16)
    if not x.is_cuda:
        view = x.t() if transposed else x
        return cpu.quantize_dequantize(view, use.quantizer, draw=use.draw, signs=use.signs).contiguous()
    from kernels.quantize import triton

    both = triton.quantize_dequantize(x, *((None, use) if transposed else (use, None)))
    found = both[1] if transposed else both[0]
    assert found is not None
    return found.values.contiguous()


@custom_op("fourmark::mxfp4_gemm", mutates_args=())
def mxfp4_gemm(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, gain: float = 1.0, swizzled: bool = False
) -> Tensor:
    """`gain` times a b^T, a (M, N) BF16 matrix that is rounded once.

    A GPU with FP4 units multiplies FP4. Elsewhere the elements are multiplied as BF16, which is exact.

    Args:
        a, b: elements (M, K // 2) and (N, K // 2) uint8; they have no gradient.
        swizzled: both scales are flat tiles of 128x4; with them datacentre Blackwell uses its tensor memory.

    Raises:
        ValueError: operands that do not belong together.
    """
    _require_operands(a, a_scales, b, b_scales, swizzled)
    on = architectures.of(a.device)
    if not on.has_fp4_units:
        left, right = (
            Prepared(_values(codes, scales, swizzled), Quantizer())
            for codes, scales in ((a, a_scales), (b, b_scales))
        )
        return Emulated().multiply(left, right, gain=gain, dtype=torch.bfloat16, accumulate=None)
    from kernels.matmul import triton

    if swizzled and not on.has_tensor_memory:
        a_scales, b_scales = unswizzle(a_scales, a), unswizzle(b_scales, b)
    out = torch.empty(a.size(0), b.size(0), dtype=torch.bfloat16, device=a.device)
    options: dict[str, Any] = {
        "element": "e2m1",
        "alpha": gain,
        "swizzled": swizzled and on.has_tensor_memory,
    }
    return triton.multiply(a, a_scales, b, b_scales, out, accumulate=False, **options)


def unswizzle(tiles: Tensor, elements: Tensor) -> Tensor:
    """The scales (R, C) of elements (R, 16 C) from their tiles."""
    return unswizzled(tiles, elements.size(0), elements.size(1) // (BLOCK // 2))


def _use(
    x: Tensor, scale_rule: str, hadamard: int, transposed: bool, signs: Tensor | None, stochastic: bool,
    seed: int, offset: int, prescale: float,
) -> Use:  # fmt: skip
    """The same checks on every device and without data."""
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(
            f"found {x.dtype} of shape {tuple(x.shape)}; pass a matrix of floating-point numbers"
        )
    if signs is not None and signs.shape != (hadamard,):
        raise ValueError(f"signs: found shape {tuple(signs.shape)}; allowed: ({hadamard},), one per point")
    quantizer = Quantizer(
        scale_rule=ScaleRule(scale_rule), hadamard=hadamard, prescale=prescale,
        rounding=Rounding.STOCHASTIC if stochastic else Rounding.NEAREST,
        signs=Signs.NONE if signs is None else Signs.FIXED,
    )  # fmt: skip
    require_blocks(x.t() if transposed else x, max(BLOCK, hadamard))
    draw = Draw(seed % (1 << 64), offset % (1 << 64)) if stochastic else None
    return Use(quantizer, draw, signs)


def _require_operands(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, swizzled: bool) -> None:
    for name, codes, scales in (("a", a, a_scales), ("b", b, b_scales)):
        if codes.dim() != 2 or codes.dtype != torch.uint8 or scales.dtype != torch.uint8:
            raise ValueError(
                f"{name}: found {codes.dtype} of shape {tuple(codes.shape)}; pass mxfp4_quantize's result"
            )
        if codes.size(1) % (BLOCK // 2):
            raise ValueError(f"{name}: {2 * codes.size(1)} elements in a row are not a multiple of {BLOCK}")
        wanted = _scales_shape(codes.size(0), 2 * codes.size(1), swizzled)
        if scales.shape != wanted:
            raise ValueError(f"{name}: found scales of shape {tuple(scales.shape)}; allowed: {wanted}")
    if a.size(1) != b.size(1):
        raise ValueError(
            f"a has {2 * a.size(1)} elements in a row, b has {2 * b.size(1)}; give both the same"
        )


def _scales_shape(rows: int, columns: int, swizzled: bool) -> tuple[int, ...]:
    if not swizzled:
        return rows, columns // BLOCK
    return (-(-rows // SCALE_TILE[0]) * -(-columns // (BLOCK * SCALE_TILE[1])) * math.prod(SCALE_TILE),)


def _values(elements: Tensor, scales: Tensor, swizzled: bool) -> Tensor:
    """BF16 values (R, K).

    Without C++ each byte looks up a pair of values in a table, which takes five bytes of memory per element.
    """
    scales = unswizzle(scales, elements) if swizzled else scales
    if not elements.is_cuda:
        return cpu.dequantize(reference.Quantized(elements, scales, Quantizer()))
    return values_on_gpu(elements, scales)


def values_on_gpu(elements: Tensor, scales: Tensor) -> Tensor:
    """torch operations for `_values`: element times power of two, both exact in BF16."""
    codes = torch.arange(256, dtype=torch.uint8, device=elements.device).unsqueeze(1)
    table = values(unpack(codes), _E2M1).to(torch.bfloat16).view(torch.int32).flatten()
    pairs = table.index_select(0, elements.flatten().int()).view(torch.bfloat16)
    power = torch.exp2(scales.float() - E8M0_BIAS).masked_fill_(scales == E8M0_NAN, torch.nan)
    blocks = pairs.view(elements.size(0), -1, BLOCK)
    return blocks.mul_(power.to(torch.bfloat16).unsqueeze(-1)).flatten(1)


@mxfp4_quantize.register_fake
def _(
    x: Tensor, scale_rule: str = "even", hadamard: int = 0, transposed: bool = False, signs: Tensor | None = None,
    stochastic: bool = False, seed: int = 0, offset: int = 0, prescale: float = 1.0, swizzled: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _use(x, scale_rule, hadamard, transposed, signs, stochastic, seed, offset, prescale)
    rows, columns = x.shape[::-1] if transposed else x.shape
    scales = x.new_empty(_scales_shape(rows, columns, swizzled), dtype=torch.uint8)
    return x.new_empty((rows, columns // 2), dtype=torch.uint8), scales


@mxfp4_quantize_dequantize.register_fake
def _(
    x: Tensor, scale_rule: str = "even", hadamard: int = 0, transposed: bool = False, signs: Tensor | None = None,
    stochastic: bool = False, seed: int = 0, offset: int = 0, prescale: float = 1.0,
) -> Tensor:  # fmt: skip
    _use(x, scale_rule, hadamard, transposed, signs, stochastic, seed, offset, prescale)
    return x.new_empty(x.shape[::-1] if transposed else x.shape, dtype=torch.bfloat16)


@mxfp4_gemm.register_fake
def _(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, gain: float = 1.0, swizzled: bool = False
) -> Tensor:
    _require_operands(a, a_scales, b, b_scales, swizzled)
    return a.new_empty((a.size(0), b.size(0)), dtype=torch.bfloat16)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, ctx.hadamard, ctx.transposed, signs, _, _, _, ctx.prescale = inputs
    ctx.save_for_backward(signs)
    ctx.dtype = x.dtype


def _straight_through(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (signs,) = ctx.saved_tensors
    dx = dy.float() * ctx.prescale
    if ctx.hadamard:  # the transform is symmetric; signs come before it
        dx = transformed(dx, ctx.hadamard)
        dx = dx if signs is None else (dx.unflatten(-1, (-1, ctx.hadamard)) * signs).flatten(-2)
    dx = (dx.t() if ctx.transposed else dx).to(ctx.dtype)
    return dx, *[None] * 8


mxfp4_quantize_dequantize.register_autograd(_straight_through, setup_context=_save)
