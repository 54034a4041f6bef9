"""An independent judge in float64: explicit midpoints and powers of two, no bit tricks."""

from __future__ import annotations

import torch

VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)
MANTISSA_THAT_ROUNDS_UP = {"floor": 2.0, "even": 1.75, "rceil": 1.5, "ceil": 1.0}


def scale_exponents(x, rule):
    """Block exponents (E8M0 - 127) of finite values; -127 for a zero block."""
    largest = x.double().abs().unflatten(-1, (-1, 32)).amax(-1)
    mantissa, exponent = torch.frexp(largest)
    mantissa, exponent = mantissa * 2, exponent - 1  # mantissa in [1, 2)
    threshold = MANTISSA_THAT_ROUNDS_UP[rule]
    up = mantissa >= threshold if rule == "even" else mantissa > threshold
    found = exponent + up.int() - 2
    return torch.where(largest == 0, -127, found.clamp(-127, 127))


def quantized(x, rule):
    """MXFP4 values of finite x as float64: nearest value, a tie to the even code, saturating at 6."""
    scale = torch.exp2(scale_exponents(x, rule).double()).unsqueeze(-1)
    magnitude = x.double().abs().unflatten(-1, (-1, 32)) / scale
    code = torch.zeros_like(magnitude, dtype=torch.long)
    for lower in range(7):
        midpoint = (VALUES[lower] + VALUES[lower + 1]) / 2
        code += magnitude > midpoint if lower % 2 == 0 else magnitude >= midpoint
    return torch.copysign((VALUES[code] * scale).flatten(-2), x.double())
