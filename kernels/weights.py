"""Quantised weights, kept from one micro batch to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from kernels.matmul.engine_protocol import Prepared
from kernels.recipe import Gemm


class WeightCache:
    """Prepared weights of one model, valid until the weights change.

    torch counts in-place changes of a weight, and the cache compares that count. It does not count writes through
    `.data` or a shared buffer, which Megatron's optimizers and checkpoint loads use: call `changed()` after those.
    """

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()  # weight -> {gemm: (version, how, prepared)}

    def changed(self) -> None:
        """Clear the cache; call it after an optimizer step or a load has changed the weights."""
        self._kept.clear()

    def get(self, weight: Tensor, gemm: Gemm, how: Any, make: Callable[[], Prepared]) -> Prepared:
        """The weight prepared for this GEMM; calls `make` if the weight or `how` has changed."""
        kept: dict[Gemm, tuple[int, Any, Prepared]] = self._kept.setdefault(weight, {})
        found = kept.get(gemm)
        if found is None or found[:2] != (weight._version, how):
            found = kept[gemm] = (weight._version, how, make())
        return found[2]
