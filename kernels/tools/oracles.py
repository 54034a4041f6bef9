"""Other people's quantisers, to compare with: torchao where it is installed (a development dependency)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.formats import unpack
from kernels.operand_use import Use
from kernels.recipe import Quantizer, ScaleRule
from kernels.tools.verify_twins import reference_parts

# torchao 0.18.0 is wrong below a largest magnitude of 2^-124, and a block that is not finite has other codes there.
KINDS = ("normal", "outliers", "ties", "sparse", "short")


def torchao_missing() -> str | None:
    """Why there is no torchao to compare with; None where there is."""
    logging.disable(logging.WARNING)  # it reports every GPU library that is not there
    try:
        from torchao.prototype.mx_formats import mx_tensor
    except Exception as error:  # an import that fails for want of a GPU library is as good as none
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


def torchao(x: Tensor, one: Use) -> Iterator[tuple[str, Tensor, Tensor]]:
    """torchao's codes and scales against the specification's."""
    codes, scales, _ = reference_parts(x, one)
    theirs = to_mx(x, one.quantizer.scale_rule)
    yield "scales", theirs[1], scales
    yield "elements", theirs[0], codes


def quantizers() -> list[Quantizer]:
    return [Quantizer(scale_rule=rule) for rule in ScaleRule]
