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


def culprits(
    losses: list[torch.Tensor],
    chunks: Sequence[DistributedDataParallel],
    home: torch.device,
    *,
    distributed_optimizer: bool,
) -> str:
    """The ranks whose own values were not finite, as text; all ranks must call it together.

    Args:
        losses: of the last step's forward passes on this rank; none before the last pipeline stage.
        chunks: this rank's pipeline stages, with the gradients of the last step.
    """
    gradient = float(_own_gradient(chunks, home, distributed_optimizer))
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


def _micro_batch(losses: list[torch.Tensor]) -> int:
    if not losses:
        return _NONE
    bad = (~torch.isfinite(torch.stack(losses))).any(1).nonzero()
    return int(bad[0]) + 1 if len(bad) else 0


def _own_gradient(
    chunks: Sequence[DistributedDataParallel], home: torch.device, distributed_optimizer: bool
) -> bool:
    """Whether this rank added something that is not finite to its data-parallel group's gradients.

    The distributed optimizer reduces each rank's own shard in place and leaves the other shards as this rank computed
    them. So this rank caused a bad value that it holds in another rank's shard. It also caused a bad sum in its own
    shard if no other rank holds a bad value for that shard.
    """
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    if size > 1 and not distributed_optimizer:
        return False  # every rank holds only the sum of all gradients
    shards = torch.zeros(size, device=home)
    for chunk in chunks:
        for bucket in (bucket for buffer in chunk.buffers for bucket in buffer.buckets):
            parts = bucket.grad_data.view(size, -1)
            largest = torch.stack([torch.linalg.vector_norm(part, float("inf")) for part in parts])
            shards += (~torch.isfinite(largest)).float()
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
