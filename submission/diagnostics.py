"""Measures quantisation errors during chosen steps. Observing changes no bit of the training."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from harness.contract import diagnostics_rows
from harness.contract.config import Diagnostics
from harness.contract.diagnostics_rows import Gradient, Operand, Row
from kernels.formats import E8M0_BIAS
from kernels.observe import error_figures
from kernels.observe.collector import OPERAND, Collector, Key, Sums
from kernels.observe.sketch import History
from kernels.recipe import Gemm
from submission.precision import Linears
from submission.proof import natural


class Diagnoser:
    """Observes the GEMMs of one rank; rank 0 gathers the figures of all ranks and remembers earlier observations.

    Create it after the process groups. Each rank observes its own tokens and its own part of a weight. Relative errors
    are averaged over micro batches and ranks; sketches of weight gradients are summed.
    """

    def __init__(self, settings: Diagnostics, linears: Linears):
        self._settings, self._linears = settings, linears
        part = parallel_state.get_tensor_model_parallel_rank()
        self._collector = Collector(most_rows=settings.rows, part=part)
        self._histories: dict[str, History] = defaultdict(History)
        self.found: list[Row] = []  # rows of the last observed step, on rank 0

    @contextlib.contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Context for training a step (counted from 1); observes it if the configuration names it."""
        if not self._settings.looks_at(step):
            yield
            return
        self._linears.observer = self._collector
        try:
            yield
        finally:
            self._linears.observer = None
        self.found = self._rows(step)

    def _rows(self, step: int) -> list[Row]:
        mine = self._collector.take()
        first = dist.get_rank() == 0
        everyone: list[Any] | None = [None] * dist.get_world_size() if first else None
        dist.gather_object(mine, everyone)
        if everyone is None:
            return []
        merged: dict[Key, Sums] = {}
        for part in everyone:
            for key, sums in part.items():
                if key in merged:
                    merged[key].add(sums)
                else:
                    merged[key] = sums
        order = [gemm.value for gemm in Gemm]
        keys = sorted(merged, key=lambda key: (natural(key[0]), order.index(key[1].value)))
        return [self._row(step, key, merged[key]) for key in keys]

    def _row(self, step: int, key: Key, sums: Sums) -> Row:
        label, gemm = key
        left = sums.quantizers[0]
        error, bias = (sums.product / sums.observations).tolist()
        return Row(
            layer=label,
            gemm=gemm.value,
            format=left.format.value,
            transform=left.transform,
            product=error_figures.described(error, bias),
            left=_operand(sums, 0),
            right=_operand(sums, 1),
            gradient=self._gradient(step, label, sums),
        )

    def _gradient(self, step: int, label: str, sums: Sums) -> Gradient | None:
        if sums.sketches is None:
            return None
        found = self._histories[label].advance(step, sums.sketches[0], sums.sketches[1])
        return None if found is None else diagnostics_rows.gradient_of(found)


def _operand(sums: Sums, place: int) -> Operand:
    means = dict(zip(OPERAND, (sums.operands[place] / sums.observations).tolist(), strict=True))
    whole = error_figures.described(means.pop("error"), means.pop("bias"))
    figures = {"snr_db": whole["snr_db"], "bias": whole["bias"]}
    figures |= {name: error_figures.finite(value) for name, value in means.items()}
    exponents = {at - E8M0_BIAS: count for at, count in enumerate(sums.exponents[place].tolist()) if count}
    return Operand(numbers=figures, exponents=exponents)
