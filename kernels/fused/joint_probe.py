"""Compares the joint kernels with the two kernels that they replace, bit for bit, on one device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels import architectures
from kernels.formats import E4M3, E5M2
from kernels.fused import joint, triton
from kernels.fused.deferred import NormSource, Source, SwiGluGradientSource, SwiGluSource
from kernels.operand_use import Use
from kernels.quantize import triton as plain
from kernels.quantize import triton_fp8
from kernels.recipe import Quantizer

ROWS, COLUMNS = 64, 128  # a tile


def difference(device: torch.device) -> str:
    """The first difference as text; empty if there is none."""
    use = Use(Quantizer(hadamard=16))
    has_fp8 = architectures.of(device).has_fp8_units or device.type == "cpu"
    for name, source, values in sources(device):
        pairs: list[tuple[str, tuple[object, ...], tuple[object, ...]]] = [
            ("MXFP4 codes", joint.quantize(source, use, use), plain.quantize(values, use, use)),
            (
                "MXFP4 values",
                joint.values_and_codes(source, use, use),
                plain.values_and_codes(values, use, use),
            ),
        ]
        for element in (E4M3, E5M2) if has_fp8 else ():
            assert element.dtype is not None
            cast = joint.quantize_fp8(source, element.dtype, rows=True, columns=True)
            apart = triton_fp8.quantize(values, element.dtype, rows=True, columns=True)
            pairs.append((f"FP8 {element.name}", cast, apart))
        for what, found, wanted in pairs:
            if not all(torch.equal(a, b) for a, b in zip(_tensors(found), _tensors(wanted), strict=True)):
                return f"{name}, {what}: the joint kernel differs from the two kernels it replaces"
    return ""


def sources(device: torch.device) -> Iterator[tuple[str, Source, Tensor]]:
    """Each kind of source, with the values that the fused kernels compute."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    x, residual, gain = draw(ROWS, COLUMNS), draw(ROWS, COLUMNS), 1 + draw(COLUMNS) / 8
    stream, roots, largest = triton.norm_of_rows(x, residual, gain, 1e-5)
    yield "norm", NormSource(stream, gain, roots, largest), triton.norm(x, residual, gain, 1e-5)[1]
    mixed, dy = 3 * draw(ROWS, 2 * COLUMNS), draw(ROWS, COLUMNS)
    yield "swiglu", SwiGluSource(mixed), triton.swiglu(mixed)
    yield "swiglu's gradient", SwiGluGradientSource(mixed, dy), triton.swiglu_backward(dy, mixed)


def _tensors(found: tuple[object, ...]) -> Iterator[Tensor]:
    for one in found:
        if isinstance(one, plain.Valued):
            one = one.values
        for tensor in (one.elements, one.scales) if isinstance(one, plain.Packed) else (one,):
            assert isinstance(tensor, Tensor)
            yield tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
