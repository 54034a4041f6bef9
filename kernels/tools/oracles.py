"""Independent quantisers to compare ours with: torchao, where it is installed (a development dependency)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.formats import unpack
from kernels.operand_use import Use
from kernels.recipe import MAXIMUM_RULES, Format, Quantizer, ScaleRule, TensorScale
from kernels.tools.verify_twins import reference_parts

# torchao 0.18.0 is wrong where a block's largest magnitude is below 2^-124, and gives non-finite blocks other codes.
KINDS = ("normal", "outliers", "ties", "sparse", "short")


def torchao_missing() -> str | None:
    """Why torchao cannot be used; None where it can."""
    logging.disable(logging.WARNING)  # torchao warns of every GPU library that is missing
    try:
        from torchao.prototype.mx_formats import mx_tensor
    except Exception as error:  # a missing GPU library may raise any type
        return f"{type(error).__name__}: {error}"
    finally:
        logging.disable(logging.NOTSET)
    return None if hasattr(mx_tensor, "to_mx") else "this torchao has no to_mx"


def to_mx(x: Tensor, rule: ScaleRule) -> tuple[Tensor, Tensor]:
    """torchao's MXFP4: codes (M, K), one a byte, and scales (M, K // 32)."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_mx as quantize

    scales, elements = quantize(x, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode(rule.value))
    codes = unpack(elements.view(torch.uint8)).reshape(x.shape)
    return codes, scales.view(torch.uint8).reshape(x.size(0), -1)


def to_nvfp4(x: Tensor) -> tuple[Tensor, Tensor]:
    """torchao's NVFP4 with a tensor scale: codes (M, K), one a byte, and E4M3 scales (M, K // 16)."""
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    scales, elements = nvfp4_quantize(x, 16, per_tensor_amax_to_scale(x.abs().amax()))
    return unpack(elements.view(torch.uint8)).reshape(x.shape), scales.view(torch.uint8).reshape(
        x.size(0), -1
    )


def torchao(x: Tensor, one: Use) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Compares torchao's codes and scales with the specification's."""
    expected = reference_parts(x, one)
    nvfp4 = one.quantizer.format is Format.NVFP4
    theirs = to_nvfp4(x) if nvfp4 else to_mx(x, one.quantizer.scale_rule)
    yield "scales", theirs[1], expected.scales
    yield "elements", theirs[0], expected.codes


def quantizers() -> list[Quantizer]:
    nvfp4 = Quantizer(format=Format.NVFP4, tensor_scale=TensorScale.TORCHAO)
    return [*(Quantizer(scale_rule=rule) for rule in MAXIMUM_RULES), nvfp4]
