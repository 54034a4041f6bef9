"""Finds ranks that are slower than other ranks with the same work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from harness.contract.metrics_rows import StragglerRow


class Stragglers:
    """Compares the times of ranks' own forward passes at evaluations; every rank gets the same result.

    Args:
        ratio: a rank is slow if its time is at least `ratio` times the median of the ranks with the same work;
            0 turns the comparison off.
    """

    def __init__(self, ratio: float):
        self._ratio = ratio
        self._slow_before: set[int] = set()

    def look(self, pass_s: float, home: torch.device) -> list[StragglerRow]:
        """Ranks that are slow now and were slow at the previous call. All ranks must call it: it gathers their times.

        Args:
            pass_s: mean seconds of this rank's forward passes since the previous call.
        """
        if not self._ratio or dist.get_world_size() == 1:
            return []
        own = torch.tensor([pass_s, parallel_state.get_pipeline_model_parallel_rank()], device=home)
        rows = torch.empty(2 * dist.get_world_size(), device=home)
        dist.all_gather_into_tensor(rows, own)
        rows = rows.view(-1, 2)
        ratios = compared([(seconds, int(stage)) for seconds, stage in rows.tolist()])
        slow = {rank for rank, ratio in enumerate(ratios) if ratio >= self._ratio}
        found = [
            StragglerRow(rank=rank, ratio=round(ratios[rank], 3), pass_s=round(float(rows[rank, 0]), 6))
            for rank in sorted(slow & self._slow_before)
        ]
        self._slow_before = slow
        return found


def compared(passes: Sequence[tuple[float, int]]) -> list[float]:
    """Ratio of each rank's seconds to the (lower) median of the ranks on its pipeline stage.

    Args:
        passes: seconds and stage of each rank.
    """
    stages: dict[int, list[float]] = {}
    for seconds, stage in passes:
        stages.setdefault(stage, []).append(seconds)
    medians = {stage: statistics.median_low(seconds) for stage, seconds in stages.items()}
    return [seconds / medians[stage] if medians[stage] else 1.0 for seconds, stage in passes]
