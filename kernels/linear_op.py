"""The linear as one torch operator, torch.ops.fourmark.linear, so that torch.compile traces it without a graph break.

Compiled graphs hold numbers and tensors only, so a layer is passed as the number under which it was registered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.layer import Layer
from kernels.linear import require_gradients

_OWNERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def register(owner: Any) -> int:
    """Return a number for `owner`, whose method `layer_of(call)` returns the layer for one forward pass."""
    number = next(_numbers)
    _OWNERS[number] = owner
    return number


def _require(x: Tensor, w: Tensor, number: int, dgrad: bool, wgrad: bool) -> None:
    require_gradients(_owner(number).layer.recipe, x.size(0), w.size(0), dgrad=dgrad, wgrad=wgrad)


def _owner(number: int) -> Any:
    if number not in _OWNERS:
        raise ValueError(f"no linear with number {number} in this process; compile the model again")
    return _OWNERS[number]


def _layer(number: int, call: Tensor | None) -> Layer:
    of_call: Callable[[Tensor | None], Layer] = _owner(number).layer_of
    return of_call(call)


@custom_op("fourmark::linear", mutates_args=())
def linear(
    x: Tensor, w: Tensor, number: int, call: Tensor | None = None, dgrad: bool = True, wgrad: bool = True
) -> Tensor:
    """y (T, N) = x (T, K) w^T (N, K) by the recipe of a registered layer, in x's type.

    Args:
        call: () int64 on the CPU, the number of this forward pass; None where the recipe draws nothing.
        dgrad, wgrad: which gradients may be needed. ValueError if one of them cannot quantise this shape.
    """
    _require(x, w, number, dgrad, wgrad)
    with torch.autocast(x.device.type, enabled=False):
        return _layer(number, call).forward(x, w)


@custom_op("fourmark::linear_backward", mutates_args=())
def linear_backward(
    dy: Tensor, x: Tensor, w: Tensor, number: int, call: Tensor | None, dgrad: bool, wgrad: bool
) -> tuple[Tensor, Tensor]:
    """dX (T, K) and dW (N, K) of a registered layer; empty where not needed."""
    with torch.autocast(dy.device.type, enabled=False):
        step = _layer(number, call).backward(dy, w, input=dgrad, weight=wgrad)
        dx = step.input_gradient() if dgrad else dy.new_empty(0)
        return dx, step.weight_gradient(x, None) if wgrad else w.new_empty(0)


@linear.register_fake
def _(
    x: Tensor, w: Tensor, number: int, call: Tensor | None = None, dgrad: bool = True, wgrad: bool = True
) -> Tensor:
    _require(x, w, number, dgrad, wgrad)
    return x.new_empty((x.size(0), w.size(0)))


@linear_backward.register_fake
def _(
    dy: Tensor, x: Tensor, w: Tensor, number: int, call: Tensor | None, dgrad: bool, wgrad: bool
) -> tuple[Tensor, Tensor]:
    dx = dy.new_empty((dy.size(0), w.size(1)) if dgrad else (0,))
    return dx, dy.new_empty(tuple(w.shape)) if wgrad else w.new_empty(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, number, call, *_ = inputs
    ctx.save_for_backward(x, w, call)
    ctx.number = number


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, w, call = ctx.saved_tensors
    dgrad, wgrad = ctx.needs_input_grad[:2]
    dx, dw = linear_backward(dy, x, w, ctx.number, call, dgrad, wgrad)
    return dx if dgrad else None, dw if wgrad else None, None, None, None, None


linear.register_autograd(_differentiate, setup_context=_save)
