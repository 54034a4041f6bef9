"""Runs the three GEMMs of one linear layer in the order in which autograd calls for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import architectures
from kernels.architectures import Platform
from kernels.ledger import Ledger
from kernels.matmul import engine_probe
from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.matmul.gemm import choose, how, uses
from kernels.observe.observer import Multiplied, Observer
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Gemm, LinearRecipe, Rounding, Signs
from kernels.weights import WeightCache


@dataclass(frozen=True)
class _Plan:
    """The decisions for one GEMM: how each operand is quantised, and which engine multiplies."""

    which: Gemm
    left: Use
    right: Use
    request: Request
    engine: Engine
    on: Platform


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Runs the GEMMs of one linear layer by a recipe and counts them in a ledger.

    Args:
        label: the layer's name in the ledger.
        randomness: source of random numbers; needed by recipes with random signs or stochastic rounding.
        weights: cache shared by all layers of a model; None quantises weights again for every GEMM.
        backend: "auto", or the only kind of engine allowed.
        observer: called with every GEMM after it ran; None, the default, costs nothing.
    """

    recipe: LinearRecipe
    label: str
    ledger: Ledger
    randomness: Randomness | None = None
    weights: WeightCache | None = None
    backend: str = "auto"
    observer: Observer | None = None

    def forward(self, x_TK: Tensor, w_NK: Tensor) -> Tensor:
        """(T, N): Fprop."""
        plan = self._plan(Gemm.FPROP, x_TK.size(0), w_NK.size(0), x_TK)
        x, _ = plan.engine.prepare(x_TK, plan.left, None)
        assert x is not None
        return self._multiply(plan, x, self._weight(plan, w_NK, w_NK), (x_TK, w_NK))

    def backward(self, dy_TN: Tensor, w_NK: Tensor, *, input: bool, weight: bool) -> Backward:
        """Quantise dY for the gradients that are needed; in one pass where the same engine computes both."""
        T, N, K = dy_TN.size(0), dy_TN.size(1), w_NK.size(1)
        dgrad = self._plan(Gemm.DGRAD, T, K, dy_TN) if input else None
        wgrad = self._plan(Gemm.WGRAD, N, K, dy_TN.t()) if weight else None
        rows = columns = None
        if dgrad and wgrad and dgrad.engine is wgrad.engine:
            rows, columns = dgrad.engine.prepare(dy_TN, dgrad.left, wgrad.left)
        else:
            rows = dgrad.engine.prepare(dy_TN, dgrad.left, None)[0] if dgrad else None
            columns = wgrad.engine.prepare(dy_TN, None, wgrad.left)[1] if wgrad else None
        return Backward(self, w_NK, dy_TN, (dgrad, rows), (wgrad, columns))

    def _plan(self, which: Gemm, M: int, N: int, left: Tensor) -> _Plan:
        first, second = uses(self.recipe[which], which, self.randomness, left)
        on = architectures.of(left.device)
        gain = self.recipe[which].gain
        request = Request(first.quantizer, second.quantizer, M, N, left.size(1), gain, left.dtype)
        engine = choose(on, request, self.backend, engine_probe.of(left))
        return _Plan(which, first, second, request, engine, on)

    def _weight(self, plan: _Plan, view: Tensor, weight: Tensor) -> Prepared:
        """The right operand `view` of `weight`; cached between micro batches unless its rounding is stochastic."""

        def make() -> Prepared:
            prepared, _ = plan.engine.prepare(view, plan.right, None)
            assert prepared is not None
            return prepared

        quantizer = plan.right.quantizer
        if self.weights is None or quantizer.rounding is Rounding.STOCHASTIC:
            return make()
        step = self.randomness.step if self.randomness and quantizer.signs is Signs.STEP else 0
        return self.weights.get(weight, plan.which, (plan.engine.name, quantizer, step), make)

    def _multiply(
        self,
        plan: _Plan,
        left: Prepared,
        right: Prepared,
        operands: tuple[Tensor, Tensor],
        accumulate: Tensor | None = None,
    ) -> Tensor:
        gain, dtype = self.recipe[plan.which].gain, operands[0].dtype
        product = plan.engine.multiply(
            left, right, gain=gain, dtype=dtype, accumulate=accumulate, fast=plan.which is Gemm.FPROP
        )
        self.ledger.add(self.label, plan.which, how(plan.engine, plan.on, plan.request, left, right, gain))
        if self.observer is not None:

            def came_out() -> Tensor:
                if accumulate is None:
                    return product
                nothing = torch.zeros_like(accumulate)
                return plan.engine.multiply(left, right, gain=gain, dtype=dtype, accumulate=nothing)

            uses, prepared = (plan.left, plan.right), (left, right)
            self.observer(Multiplied(self.label, plan.which, *operands, uses, prepared, came_out))
        return product


@dataclass(frozen=True)
class Backward:
    """Computes the two gradients in separate calls, so that the caller can start communication between them."""

    layer: Layer
    w_NK: Tensor
    dy_TN: Tensor
    dgrad: tuple[_Plan | None, Prepared | None]
    wgrad: tuple[_Plan | None, Prepared | None]

    def input_gradient(self) -> Tensor:
        """(T, K): Dgrad."""
        plan, dy = self.dgrad
        assert plan is not None and dy is not None
        weight = self.layer._weight(plan, self.w_NK.t(), self.w_NK)
        return self.layer._multiply(plan, dy, weight, (self.dy_TN, self.w_NK.t()))

    def weight_gradient(self, x_TK: Tensor, accumulate: Tensor | None) -> Tensor:
        """(N, K): Wgrad, added to `accumulate` where there is one."""
        plan, dy = self.wgrad
        assert plan is not None and dy is not None
        _, x = plan.engine.prepare(x_TK, None, plan.right)
        assert x is not None
        return self.layer._multiply(plan, dy, x, (self.dy_TN.t(), x_TK.t()), accumulate)
