"""Frees fc1's output after the activation, and computes it again when the backward pass needs it.

It is the largest tensor of a layer: 57,344 of the 106,304 bytes that a token of the 8B model keeps in MXFP4. The same
operands in the same engine give the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron.core.transformer.mlp import MLP
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

FC1 = "mlp.linear_fc1"  # end of its label


class _Output:
    """One output: a reference to its memory, and the function that computes it again."""

    def __init__(self, y: Tensor, again: Callable[[], Tensor]):
        self._storage, self._again = (
            StorageWeakRef(y.untyped_storage()),
            again,
        )  # this reference keeps its address from being reused
        self._made: weakref.ref[Tensor] | None = None

    def lies_under(self, tensor: Tensor) -> bool:
        return bool(self._storage.cdata == tensor.untyped_storage()._cdata)

    def value(self) -> Tensor:
        """Return the output, computed again unless a computed one is still in use."""
        made = None if self._made is None else self._made()
        if made is None:
            made = self._again()
            self._made = weakref.ref(made)
        return made


@dataclass(frozen=True)
class _Part:
    """A saved view of an output."""

    output: _Output
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Outputs:
    """The outputs that autograd must not keep, from their GEMM to the end of the MLP."""

    def __init__(self) -> None:
        self._outputs: list[_Output] = []

    def remember(self, y: Tensor, again: Callable[[], Tensor]) -> None:
        self._outputs.append(_Output(y, again))

    def forget(self) -> None:
        self._outputs.clear()

    def hooks(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self._pack, _unpack)

    def _pack(self, tensor: Tensor) -> Tensor | _Part:
        for output in self._outputs:
            if output.lies_under(tensor):
                return _Part(output, tuple(tensor.size()), tensor.stride(), int(tensor.storage_offset()))
        return tensor


def _unpack(saved: Tensor | _Part) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    return saved.output.value().as_strided(saved.size, saved.stride, saved.offset)


def recomputed(kind: type[MLP]) -> type[MLP]:
    """Return a subclass of a Megatron MLP that keeps fc1's quantised input instead of its output."""

    class RecomputedMlp(kind):
        def __init__(self, *arguments: Any, outputs: Outputs, **options: Any):
            super().__init__(*arguments, **options)
            self._outputs = outputs

        def forward(self, *arguments: Any, **options: Any) -> Any:
            try:
                with self._outputs.hooks():
                    return super().forward(*arguments, **options)
            finally:
                self._outputs.forget()

    return RecomputedMlp
