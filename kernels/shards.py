"""Divides a quantised operand among ranks along its contraction dimension, and joins the parts again.

The operand is quantised before it is divided, so the largest magnitude of a tensor or row is that of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from kernels.matmul.engine_protocol import Narrow

_TILE = 128  # of the contraction dimension: whole blocks and bytes, and whole tiles of scales


@dataclass(frozen=True)
class _Piece:
    """One tensor inside a part: its type, and the shape of this rank's share."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    divided: int  # the dimension of `shape` that is divided among ranks


@dataclass(frozen=True)
class Part:
    """This rank's elements and scales as one row of bytes, and the layout that joins all ranks' rows."""

    bytes: Tensor
    pieces: tuple[_Piece, ...]
    whole: Narrow  # without elements and block scales


def is_divisible(length: int, ranks: int) -> bool:
    """Whether a contraction dimension of this length divides into parts of whole blocks."""
    return length % (ranks * _TILE) == 0


def part(whole: Narrow, rank: int, ranks: int) -> Part:
    """Copy the part of one rank, so that the memory of the whole operand can be freed.

    Args:
        whole: (R, K); `is_divisible` holds for K.
    """
    pieces: list[_Piece] = []
    rows: list[Tensor] = []
    for tensor in filter(lambda one: one is not None, (_in_memory_order(whole.elements), _tiles(whole))):
        assert tensor is not None
        divided = 0 if _lies_across(whole.elements) and not rows else 1
        own = tensor.chunk(ranks, divided)[rank]
        pieces.append(_Piece(own.dtype, tuple(own.shape), divided))
        rows.append(own.reshape(-1).view(torch.uint8))
    nothing = torch.empty(0, dtype=whole.elements.dtype)
    return Part(torch.cat(rows), tuple(pieces), replace(whole, elements=nothing, scales=None))


def joined(given: Part, all_bytes: Tensor) -> Narrow:
    """Join the parts to the whole operand.

    Args:
        given: the part of any rank.
        all_bytes: (ranks, bytes), every rank's part.
    """
    at, tensors = 0, []
    for piece in given.pieces:
        size = prod(piece.shape) * piece.dtype.itemsize
        stacked = all_bytes[:, at : at + size].view(piece.dtype).unflatten(1, piece.shape)
        tensors.append(stacked.movedim(0, piece.divided).flatten(piece.divided, piece.divided + 1))
        at += size
    elements = tensors[0] if given.pieces[0].divided else tensors[0].t()
    scales = tensors[1] if len(tensors) > 1 else None
    if scales is not None and scales.dim() > 2:  # tiles of 128x4
        scales = scales.flatten()
    return replace(given.whole, elements=elements, scales=scales)


def _lies_across(elements: Tensor) -> bool:
    return not elements.is_contiguous() and elements.t().is_contiguous()


def _in_memory_order(elements: Tensor) -> Tensor:
    return elements.t() if _lies_across(elements) else elements


def _tiles(whole: Narrow) -> Tensor | None:
    """Block scales with the contraction dimension second: (R, K / block), or (R / 128, K / 128, 512)."""
    if whole.scales is None or whole.scales.dim() > 1:
        return whole.scales
    return whole.scales.view(-(-whole.elements.size(0) // _TILE), -1, 512)
