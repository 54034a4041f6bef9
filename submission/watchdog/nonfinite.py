"""Finds the ranks where a loss or a gradient first became NaN or infinite; costs healthy steps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel

_NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFinding:
    """Which of one rank's own values are not finite, before collectives combine them with other ranks'.

    Args:
        micro_batch: the first one whose loss is not finite, counted from 1; 0: all are finite; -1: it has no losses.
        gradient: whether its gradients were not finite before they were reduced, as far as that can still be seen.
    """

    micro_batch: int
    gradient: bool


class GradientWatch:
    """Records at each step which gradients are not finite, before the next step overwrites the gradients.

    The distributed optimizer overwrites a rank's own shard with the sum over ranks. All other shards still
    hold the gradients that this rank computed itself.

    Args:
        chunks: this rank's pipeline stages.
        home: device of the gradients.
        distributed_optimizer: if false, every rank holds only the sums, and nothing is recorded.
    """

    def __init__(
        self, chunks: Sequence[DistributedDataParallel], home: torch.device, *, distributed_optimizer: bool
    ):
        size = dist.get_world_size(_group())
        self._parts = size
        self._buffers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        if size > 1 and not distributed_optimizer:
            return
        for buffer in (buffer for chunk in chunks for buffer in chunk.buffers):
            starts = [bucket.offset for bucket in buffer.buckets]
            sizes = [bucket.grad_data.numel() // size for bucket in buffer.buckets]
            self._buffers.append(
                (buffer.grad_data, *(torch.tensor(row, device=home) for row in (starts, sizes)))
            )

    def look(self, norm: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Per gradient buffer (buckets, shards): 1 where a value is not finite, 0 everywhere while the norm is finite.

        Args:
            norm: () gradient norm of this step. Only the kernel reads it, so the host does not wait.
        """
        on_gpu = norm.is_cuda
        if on_gpu:
            from kernels.fused.triton import parts_not_finite
        else:
            from kernels.fused.reference import parts_not_finite
        return tuple(parts_not_finite(norm, *buffer, self._parts) for buffer in self._buffers)


def culprits(losses: Sequence[torch.Tensor], bad_parts: Sequence[torch.Tensor], home: torch.device) -> str:
    """The ranks whose own values were not finite, in words. A collective.

    Args:
        losses: of a step's forward passes on this rank; none before the last pipeline stage.
        bad_parts: what GradientWatch.look found in that step.
    """
    gradient = float(_own_gradient(bad_parts, home))
    own = torch.tensor([_micro_batch(losses), gradient], device=home)
    rows = torch.empty(2 * dist.get_world_size(), device=home)
    dist.all_gather_into_tensor(rows, own)
    return tell(
        [RankFinding(micro_batch=int(batch), gradient=bool(bad)) for batch, bad in rows.view(-1, 2).tolist()]
    )


def tell(found: Sequence[RankFinding]) -> str:
    """Name the ranks as text; losses first, because a rank with a bad loss also has bad gradients.

    Args:
        found: one per rank, in their order.
    """
    with_loss = [rank for rank, own in enumerate(found) if own.micro_batch != _NONE]
    bad = [rank for rank in with_loss if found[rank].micro_batch]
    if bad and len(bad) == len(with_loss) > 1:
        return "on every rank alike: the cause is in the weights or in code that all ranks run"
    if bad:
        told = [f"rank {rank}, micro batch {found[rank].micro_batch}" for rank in bad]
        return f"first in the loss of {' and '.join(told)}"
    graded = [rank for rank, own in enumerate(found) if own.gradient]
    if graded and len(graded) == len(found) > 1:
        return (
            "on every rank losses are finite and gradients are not: the cause is in code that all ranks run"
        )
    if graded:
        ranks = " and ".join(f"rank {rank}" for rank in graded)
        return f"every rank's losses are finite; first in the gradients of {ranks}"
    return "every rank's losses are finite; after the reduction it is unknown which rank's gradients are not"


def _group() -> dist.ProcessGroup:
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _micro_batch(losses: Sequence[torch.Tensor]) -> int:
    if not losses:
        return _NONE
    bad = (~torch.isfinite(torch.stack(list(losses)))).any(1).nonzero()
    return int(bad[0]) + 1 if len(bad) else 0


def _own_gradient(bad_parts: Sequence[torch.Tensor], home: torch.device) -> bool:
    """Whether this rank added something that is not finite to its data-parallel group's gradients.

    It did if another rank's shard is bad here, or if its own sum is bad but no other rank's part of that sum.
    """
    if not bad_parts:
        return False
    group = _group()
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    shards = torch.stack([found.sum(0) for found in bad_parts]).sum(0).float().to(home)
    rows = torch.empty(size * size, device=home)
    dist.all_gather_into_tensor(rows, shards, group=group)
    return guilty((rows > 0).view(size, size).tolist(), rank)


def guilty(bad: Sequence[Sequence[bool]], rank: int) -> bool:
    """Whether a rank of a data-parallel group caused a value that is not finite.

    Args:
        bad: bad[r][s] says whether the values that rank r holds for shard s are not finite. For r = s they are the sum
            over all ranks, otherwise what rank r itself computed.
    """
    others = [other for other in range(len(bad)) if other != rank]
    mine = any(bad[rank][shard] for shard in others)
    return mine or (bad[rank][rank] and not any(bad[other][rank] for other in others))
