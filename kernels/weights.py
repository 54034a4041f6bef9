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

    A weight's version counter catches every in-place change that torch sees. Optimizers that write through `.data` or
    a shared buffer, as Megatron's do, and loads of that kind are not seen: their callers say `changed()`.
    """

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()  # weight -> {gemm: (version, how, prepared)}

    def changed(self) -> None:
        """Forget everything: an optimizer step or a load has written to the weights."""
        self._kept.clear()

    def get(self, weight: Tensor, gemm: Gemm, how: Any, make: Callable[[], Prepared]) -> Prepared:
        """The weight prepared for this GEMM, made anew if the weight or `how` is another."""
        kept: dict[Gemm, tuple[int, Any, Prepared]] = self._kept.setdefault(weight, {})
        found = kept.get(gemm)
        if found is None or found[:2] != (weight._version, how):
            found = kept[gemm] = (weight._version, how, make())
        return found[2]
