"""Results that the quantiser of the next product computes itself, so that memory never holds them in BF16.

A norm, SwiGLU and SwiGLU's gradient return a `Deferred`: a tensor without memory that names its `Source`. Our linears
take the source, and an engine with a joint kernel (kernels/fused/joint.py) quantises it in one pass. Every other reader
gets the values, computed when it reads them: the same bits in either case.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from kernels import architectures
from kernels.fused import reference
from kernels.recipe import Format, Quantizer, Rounding

NORM, SWIGLU, SWIGLU_GRADIENT = 0, 1, 2  # the kinds of source, as the joint kernels name them


def implementation(x: Tensor) -> ModuleType:
    """The fused kernels for a tensor's device: Triton's on a GPU, the specification elsewhere."""
    if not x.is_cuda:
        return reference
    from kernels.fused import triton

    return triton


@dataclass(frozen=True, eq=False)
class Source(ABC):
    """What a (rows, columns) result is computed of."""

    _made: list[Tensor] = field(default_factory=list, init=False)

    @property
    @abstractmethod
    def kind(self) -> int: ...

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """The tensors that a joint kernel reads, contiguous; the first has the type of the result."""

    @abstractmethod
    def _compute(self) -> Tensor: ...

    def values(self) -> Tensor:
        """The result itself, computed once."""
        if not self._made:
            self._made.append(self._compute())
        return self._made[0]

    def size(self, dimension: int) -> int:
        return self.shape[dimension]

    @property
    def dtype(self) -> torch.dtype:
        return self.operands[0].dtype

    @property
    def device(self) -> torch.device:
        return self.operands[0].device


@dataclass(frozen=True, eq=False)
class NormSource(Source):
    """stream * root * gain, the second half of reference.norm.

    Args:
        largest_T: fp32, largest magnitude of the result in each row.
    """

    stream_TH: Tensor
    gain_H: Tensor
    roots_T: Tensor
    largest_T: Tensor

    kind = NORM

    @property
    def shape(self) -> tuple[int, int]:
        return self.stream_TH.size(0), self.stream_TH.size(1)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return self.stream_TH, self.gain_H, self.roots_T

    def _compute(self) -> Tensor:
        return reference.scaled_rows(self.stream_TH, self.gain_H, self.roots_T)


@dataclass(frozen=True, eq=False)
class SwiGluSource(Source):
    """reference.swiglu of x."""

    x_TE: Tensor

    kind = SWIGLU

    @property
    def shape(self) -> tuple[int, int]:
        return self.x_TE.size(0), self.x_TE.size(1) // 2

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return (self.x_TE,)

    def _compute(self) -> Tensor:
        found: Tensor = implementation(self.x_TE).swiglu(self.x_TE)
        return found


@dataclass(frozen=True, eq=False)
class SwiGluGradientSource(Source):
    """reference.swiglu_backward of dy and x."""

    x_TE: Tensor
    dy_TF: Tensor

    kind = SWIGLU_GRADIENT

    @property
    def shape(self) -> tuple[int, int]:
        return self.x_TE.size(0), self.x_TE.size(1)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return self.x_TE, self.dy_TF

    def _compute(self) -> Tensor:
        found: Tensor = implementation(self.x_TE).swiglu_backward(self.dy_TF, self.x_TE)
        return found


def joins(quantizer: Quantizer, device: torch.device) -> bool:
    """Whether the engines of a device quantise a source like this in one pass; a CPU stands for any GPU.

    NVFP4 does not: its tensor scale is known only after all values are. No kernel applies a given rotation, and none
    writes values rounded by the chip's instruction, which emulation needs.
    """
    if quantizer.format is Format.FP8:
        return device.type == "cpu" or architectures.of(device).has_fp8_units
    is_mx = quantizer.format in (Format.MXFP4, Format.MXFP8)
    return is_mx and quantizer.rotation is None and quantizer.rounding is not Rounding.HARDWARE


Matrix = Tensor | Source  # what engines quantise


class Deferred(Tensor):
    """A result that is computed where it is read. It has the size, type and device of the result, and no memory."""

    source: Source

    @staticmethod
    def __new__(cls, source: Source, shape: tuple[int, ...]) -> Deferred:
        make: Any = Tensor._make_wrapper_subclass
        made: Deferred = make(cls, shape, dtype=source.dtype, device=source.device)
        made.source = source
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Deferred({type(self.source).__name__}, {tuple(self.shape)})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _SAME_ROWS and isinstance(args[0], Deferred):
            shape = _shape_of_view(args)
            if shape[-1] == args[0].source.size(1):
                return Deferred(args[0].source, shape)
        args, kwargs = tree_map_only(Deferred, values, (args, kwargs or {}))
        return func(*args, **kwargs)


_ATEN = torch.ops.aten
_SAME_ROWS = {
    _ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.detach.default, _ATEN.alias.default,
}  # fmt: skip


def _shape_of_view(args: Any) -> tuple[int, ...]:
    x, *rest = args
    if not rest:
        return tuple(x.shape)
    length = x.numel() // max(-torch.Size(rest[0]).numel(), 1) if -1 in rest[0] else 0
    return tuple(length if size == -1 else size for size in rest[0])


def values(x: Tensor) -> Tensor:
    """A tensor with memory: the values of a deferred result, else x itself."""
    return x.source.values().view(x.shape) if isinstance(x, Deferred) else x


def rows_of(x: Tensor) -> Matrix:
    """x as a matrix of its last dimension: the source of a deferred result, else a view."""
    return x.source if isinstance(x, Deferred) else x.reshape(-1, x.size(-1))


def matrix_values(x: Matrix) -> Tensor:
    return x.values() if isinstance(x, Source) else x


def like(x: Matrix) -> Tensor:
    """A tensor of the matrix's type and device."""
    return x.operands[0] if isinstance(x, Source) else x
