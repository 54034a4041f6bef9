"""De-oscillation of the quantised weights, around each update of Megatron's optimizer (kernels/deoscillation.py).

Megatron's FP32 copies are flat parts of the parameters. Q needs a parameter's rows and columns, so it is taken of the
parameter that this rank's products have read: whole, gathered from all data-parallel ranks, its blocks uncut.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer

from kernels.deoscillation import FOUR_BITS, DeOscillation, Weight, quantizer_of
from submission.optimizer import masters, parts
from submission.phases import Phase
from submission.precision import PARALLEL_LINEARS, Linears, linear_layers


class Deoscillator:
    """Follows the weights of the phase that runs; does nothing in a phase without de-oscillation.

    Args:
        stages: this rank's models.
        optimizer: its steps are followed by hooks of torch's.
    """

    def __init__(self, linears: Linears, stages: Iterable[Any], optimizer: MegatronOptimizer):
        self._linears, self._stages, self._parts = linears, list(stages), parts(optimizer)
        self._phase: Phase | None = None
        self._running: list[DeOscillation] = []
        self._earlier: list[torch.Tensor] = []  # counts of phases that have ended
        if any(phase.deoscillation for phase in linears.phases):
            for place, part in enumerate(self._parts):
                part.optimizer.register_step_pre_hook(lambda *_, place=place: self._before(place))
                part.optimizer.register_step_post_hook(lambda *_, place=place: self._after(place))

    def start_over(self) -> None:
        """Forget what the steps so far did to the weights."""
        self._phase, self._running, self._earlier = None, [], []

    def snapped(self) -> int | None:
        """How often an element was set to its quantised value, over all ranks; None without de-oscillation.

        It waits for the device.
        """
        if not any(phase.deoscillation for phase in self._linears.phases):
            return None
        counts = [*self._earlier, *(one.snapped for one in self._running if one.snapped is not None)]
        device = next(self._stages[0].parameters()).device
        total = sum(counts, torch.zeros((), dtype=torch.int64, device=device))
        dist.all_reduce(total)
        return int(total) // self._copies()

    def _copies(self) -> int:
        """Number of ranks that hold the same FP32 copies."""
        from megatron.core import parallel_state
        from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

        divided = isinstance(self._parts[0], DistributedOptimizer)
        return 1 if divided else parallel_state.get_data_parallel_world_size()

    def _before(self, place: int) -> None:
        if self._linears.phase is not self._phase:
            self._enter(self._linears.phase)
        if self._running:
            self._running[place].before_update(self._linears.steps)

    def _after(self, place: int) -> None:
        if self._running:
            self._running[place].after_update()

    def _enter(self, phase: Phase) -> None:
        self._earlier += [one.snapped for one in self._running if one.snapped is not None]
        self._phase, self._running = phase, []
        if phase.deoscillation is None:
            return
        quantizers = {
            module.weight: quantizer_of(recipe.fprop)
            for stage in self._stages
            for label, module in linear_layers(stage, PARALLEL_LINEARS)
            if (recipe := phase.of(label)).fprop.format in FOUR_BITS
        }
        for part in self._parts:
            weights = [
                Weight(parameter, main, quantizers[parameter], first)
                for parameter, main, first in masters(part)
                if parameter in quantizers
            ]
            self._running.append(DeOscillation(phase.deoscillation, weights))
