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
        """The weight prepared for this GEMM; it is prepared again if the weight or `how` has changed."""
        found = self._entry(weight).get(gemm)
        if found is None or found[:2] != (weight._version, how):
            self.put(weight, gemm, how, prepared := make())
            return prepared
        return found[2]

    def put(self, weight: Tensor, gemm: Gemm, how: Any, prepared: Prepared) -> None:
        """Add a prepared weight to the cache, for example one from the same pass as another operand."""
        self._entry(weight)[gemm] = (weight._version, how, prepared)

    def _entry(self, weight: Tensor) -> dict[Gemm, tuple[int, Any, Prepared]]:
        found: dict[Gemm, tuple[int, Any, Prepared]] = self._kept.setdefault(weight, {})
        return found
