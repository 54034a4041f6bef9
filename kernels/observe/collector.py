"""Sums the error figures of every observed GEMM over one optimizer step of one rank."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.observe import error_figures
from kernels.observe.error_figures import OperandFigures, ProductFigures
from kernels.observe.observer import Multiplied
from kernels.observe.sketch import Sketcher
from kernels.recipe import Gemm, Quantizer

Key = tuple[str, Gemm]
OPERAND = ("error", "bias", "clipped", "flushed", "kurtosis", "kurtosis_transformed")


@dataclass
class Sums:
    """Sums over the observations of one GEMM: over micro batches and, after `add`, over ranks.

    Args:
        operands: (2, 6) FP64; row 0 is the left operand, row 1 the right one; the columns are named in OPERAND.
        exponents: (2, 256) number of scales with each exponent.
        product: (2,) FP64 error and bias.
        sketches: (2, size) FP64 of the exact weight gradient and of its error; None for Fprop and Dgrad.
    """

    quantizers: tuple[Quantizer, Quantizer]
    observations: int
    operands: Tensor
    exponents: Tensor
    product: Tensor
    sketches: Tensor | None

    def add(self, other: Sums) -> None:
        self.observations += other.observations
        for mine, more in ((self.operands, other.operands), (self.exponents, other.exponents)):
            mine += more
        self.product += other.product
        if self.sketches is not None and other.sketches is not None:
            self.sketches += other.sketches


@dataclass
class Collector:
    """An observer of GEMMs (kernels/observe/observer.py) that sums figures until `take`.

    Args:
        most_rows: how many rows of an operand and of a product are evaluated at most; 0 for all.
        part: this rank's index among the ranks that hold parts of one weight, so that each part is sketched with
            other random numbers.
    """

    most_rows: int = 0
    part: int = 0
    _sums: dict[Key, Sums] = field(default_factory=dict)
    _sketchers: dict[tuple[str, int, int], Sketcher] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, seen: Multiplied) -> None:
        """Add one GEMM; no value is copied from the device before `take`."""
        # CPUs multiply in FP32: convert the operands once, for all figures
        left, right = seen.left, seen.right
        if not left.is_cuda:
            left, right = left.float(), right.float()
        sides = zip((left, right), seen.uses, seen.prepared, strict=True)
        operands = [error_figures.operand(x, use, prepared, self.most_rows) for x, use, prepared in sides]
        rows = error_figures.some_rows(left.size(0), self.most_rows, left.device)
        exact = error_figures.exact(error_figures.chosen(left, rows), right)
        found = error_figures.chosen(seen.product(), rows).float()
        sums = self._entry(seen, operands, error_figures.product(exact, found), exact, found)
        key = (seen.label, seen.which)
        if key in self._sums:
            self._sums[key].add(sums)
        else:
            self._sums[key] = sums

    def take(self) -> dict[Key, Sums]:
        """Return the sums, copied to the CPU, and start empty."""
        taken, self._sums = self._sums, {}
        for sums in taken.values():
            sums.operands, sums.exponents, sums.product = (
                tensor.cpu() for tensor in (sums.operands, sums.exponents, sums.product)
            )
            sums.sketches = None if sums.sketches is None else sums.sketches.cpu()
        return taken

    def _entry(
        self,
        seen: Multiplied,
        operands: list[OperandFigures],
        product: ProductFigures,
        exact: Tensor,
        found: Tensor,
    ) -> Sums:
        figures = [torch.stack([getattr(one, name) for name in OPERAND]) for one in operands]
        sketches = None
        if seen.which is Gemm.WGRAD:
            sketches = torch.stack(self._sketcher(seen.label, exact)(exact, found - exact)).double()
        return Sums(
            quantizers=(seen.uses[0].quantizer, seen.uses[1].quantizer),
            observations=1,
            operands=torch.stack(figures).double(),
            exponents=torch.stack([one.exponents for one in operands]),
            product=torch.stack([product.error, product.bias]).double(),
            sketches=sketches,
        )

    def _sketcher(self, label: str, like: Tensor) -> Sketcher:
        rows, columns = like.shape
        key = (label, rows, columns)
        if key not in self._sketchers:
            draws = zlib.crc32(label.encode()) + (self.part << 32)
            self._sketchers[key] = Sketcher(rows, columns, draws, like.device)
        return self._sketchers[key]
