"""Runs the three GEMMs of one linear layer in the order in which autograd needs them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels import architectures, mean_split
from kernels.architectures import Platform
from kernels.fused.deferred import Matrix, like, matrix_values
from kernels.ledger import Ledger
from kernels.matmul import engine_probe
from kernels.matmul.engine_protocol import Engine, Narrow, Prepared, Request
from kernels.matmul.gemm import choose, how, use
from kernels.observe.observer import Multiplied, Observer
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Format, Gemm, LinearRecipe, Operand, Quantizer, Signs, Stochastic
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
        """Compute Fprop (T, N) and keep nothing for the backward pass."""
        return self.forward_and_keep(x_TK, w_NK, dgrad=False, columns=False)[0]

    def forward_and_keep(
        self, x_TK: Matrix, w_NK: Tensor, *, dgrad: bool, columns: bool, rows: bool = False
    ) -> tuple[Tensor, Kept | None, Callable[[], Tensor] | None]:
        """Compute Fprop (T, N) and keep X for Wgrad, quantised in the same pass if one engine runs both GEMMs.

        Args:
            dgrad: Dgrad will follow. Its orientation of the weight is made in the same pass, if weights are cached.
            columns: Wgrad will follow, and no other code keeps X. The second result is None if Wgrad uses X in BF16.
            rows: the product is needed again later. The third result computes it from the quantised rows.
        """
        plan = self._plan(Gemm.FPROP, (x_TK.size(0), w_NK.size(0), x_TK.size(1)), like(x_TK))
        columns = columns and self.recipe[Gemm.WGRAD].format is not Format.BF16
        given = self._input(x_TK, columns)
        x, again, kept = self._prepare_and_keep(plan, given, w_NK, rows=rows, columns=columns)
        weight = self._weight(plan, w_NK, w_NK, self._other_orientation(x_TK, w_NK) if dgrad else None)
        added = None if given.mean is None else (None, mean_split.of_output(w_NK, given.mean))
        operands = (matrix_values(given.rows), w_NK) if self._reads_operands else None
        y = self._multiply(plan, x, weight, operands, dtype=x_TK.dtype, added=added)
        if again is None:
            return y, kept, None
        return y, kept, functools.partial(self._fprop_again, plan, again, w_NK, y.dtype, added)

    @property
    def _reads_operands(self) -> bool:
        """Whether `_multiply` gets the operands in high precision: else a deferred one need not be computed."""
        return self.observer is not None

    def _input(self, x_TK: Matrix, columns: bool) -> _Input:
        """X for Fprop and for Wgrad: without its mean where the GEMM's recipe says so."""
        in_fprop, in_wgrad = self.recipe.fprop.mean_split, self.recipe.wgrad.mean_split
        if not (in_fprop or (in_wgrad and columns)):
            return _Input(x_TK, x_TK)
        x_TK = matrix_values(x_TK)  # the mean is known only after all values are
        split = mean_split.split(x_TK)
        return _Input(
            split.rest if in_fprop else x_TK,
            split.rest if in_wgrad else x_TK,
            split.mean if in_fprop else None,
            split.mean if in_wgrad else None,
        )

    def _fprop_again(
        self, plan: _Plan, rows: Narrow, w_NK: Tensor, dtype: torch.dtype, added: _Added | None
    ) -> Tensor:
        x, weight = plan.engine.restore(rows), self._weight(plan, w_NK, w_NK)
        return self._multiply(plan, x, weight, None, dtype=dtype, added=added)

    def backward(
        self, dy_TN: Matrix, w_NK: Tensor, *, input: bool, weight: bool, right: Use | None = None
    ) -> Backward:
        """Quantise dY for the requested gradients, in one pass if one engine runs both GEMMs.

        Args:
            right: how the kept X was quantised for Wgrad; None if X is not kept quantised.
        """
        T, N, K = dy_TN.size(0), dy_TN.size(1), w_NK.size(1)
        dgrad = self._plan(Gemm.DGRAD, (T, K, N), like(dy_TN)) if input else None
        wgrad = self._plan(Gemm.WGRAD, (N, K, T), like(dy_TN), right) if weight else None
        rows = columns = None
        if dgrad and wgrad and dgrad.engine is wgrad.engine:
            rows, columns = dgrad.engine.prepare(dy_TN, dgrad.left, wgrad.left)
        else:
            rows = dgrad.engine.prepare(dy_TN, dgrad.left, None)[0] if dgrad else None
            columns = wgrad.engine.prepare(dy_TN, None, wgrad.left)[1] if wgrad else None
        read = self._reads_operands or (weight and self.recipe.wgrad.mean_split)
        shown = matrix_values(dy_TN) if read else None
        return Backward(self, w_NK, dy_TN.dtype, shown, (dgrad, rows), (wgrad, columns))

    def _plan(
        self, which: Gemm, shape: tuple[int, int, int], left: Tensor, right: Use | None = None
    ) -> _Plan:
        """Choose quantisers and engine for M, N, K.

        Args:
            left: of the left operand's type and device.
            right: describes a right operand that is already quantised.
        """
        given = (self.recipe[which], which)
        first = use(*given, Operand.LEFT, self.randomness, left, shape[2])
        second = right or use(*given, Operand.RIGHT, self.randomness, left, shape[2])
        engine, request, on = self._engine(first.quantizer, second.quantizer, shape, left, which)
        return _Plan(which, first, second, request, engine, on)

    def _engine(
        self, left: Quantizer, right: Quantizer, shape: tuple[int, int, int], like: Tensor, which: Gemm
    ) -> tuple[Engine, Request, Platform]:
        on = architectures.of(like.device)
        request = Request(left, right, *shape, self.recipe[which].gain, like.dtype)
        return choose(on, request, self.backend, engine_probe.of(like)), request, on

    def _prepare_and_keep(
        self, plan: _Plan, given: _Input, w_NK: Tensor, *, rows: bool, columns: bool
    ) -> tuple[Prepared, Narrow | None, Kept | None]:
        """Return X prepared for Fprop, and its quantised rows and columns if they are requested."""
        engine, right = (self._wgrads_input(given.columns, w_NK)) if columns else (None, None)
        if right is not None and engine is plan.engine and given.rows is given.columns:
            x, narrow, across = engine.narrow(given.rows, plan.left, right, keep_rows=rows)
            assert x is not None
            return x, narrow, Kept(right, across, given.columns_mean)
        kept = None
        if right is not None and engine:
            kept = Kept(right, engine.narrow(given.columns, None, right)[2], given.columns_mean)
        if rows:
            values = matrix_values(given.rows)
            narrow = replace(plan.engine.narrow(values.t(), None, plan.left)[2], across=False)
            return plan.engine.restore(narrow), narrow, kept
        x = plan.engine.prepare(given.rows, plan.left, None)[0]
        assert x is not None
        return x, None, kept

    def _wgrads_input(self, x_TK: Matrix, w_NK: Tensor) -> tuple[Engine, Use]:
        """Return the engine of Wgrad, and how X is quantised for it."""
        recipe, (N, K) = self.recipe[Gemm.WGRAD], w_NK.shape
        right = use(recipe, Gemm.WGRAD, Operand.RIGHT, self.randomness, like(x_TK), x_TK.size(0))
        left = recipe.quantizer(Gemm.WGRAD, Operand.LEFT)
        return self._engine(left, right.quantizer, (N, K, x_TK.size(0)), like(x_TK), Gemm.WGRAD)[0], right

    def _other_orientation(self, x_TK: Matrix, w_NK: Tensor) -> tuple[Engine, Use] | None:
        """Return engine and quantisation of the weight in Dgrad; None if it cannot be cached."""
        recipe, (N, K) = self.recipe[Gemm.DGRAD], w_NK.shape
        if self.weights is None or recipe.stochastic is Stochastic.ALL:
            return None
        right = use(recipe, Gemm.DGRAD, Operand.RIGHT, self.randomness, like(x_TK), N)
        left = recipe.quantizer(Gemm.DGRAD, Operand.LEFT)
        return self._engine(left, right.quantizer, (x_TK.size(0), K, N), like(x_TK), Gemm.DGRAD)[0], right

    def _weight(
        self, plan: _Plan, view: Tensor, weight: Tensor, other: tuple[Engine, Use] | None = None
    ) -> Prepared:
        """Return the right operand `view` of `weight`, cached between micro batches unless rounding is stochastic.

        Args:
            other: engine and quantisation of Dgrad's operand, made in the same pass if the engine is the same.
        """
        kept = self.weights if not plan.right.quantizer.rounding.is_random else None
        across = other[1] if kept is not None and other and other[0] is plan.engine else None

        def make() -> Prepared:
            prepared, second = plan.engine.prepare(view, plan.right, across)
            if kept is not None and across is not None and second is not None:
                kept.put(weight, Gemm.DGRAD, self._made_by(plan.engine, across), second)
            assert prepared is not None
            return prepared

        if kept is None:
            return make()
        return kept.get(weight, plan.which, self._made_by(plan.engine, plan.right), make)

    def _made_by(self, engine: Engine, use: Use) -> tuple[str, Quantizer, int]:
        """Return the cache key: everything except the weight that determines its quantised operand."""
        quantizer = use.quantizer
        step = self.randomness.step if self.randomness and quantizer.signs is Signs.STEP else 0
        return engine.name, quantizer, step

    def _multiply(
        self,
        plan: _Plan,
        left: Prepared,
        right: Prepared,
        operands: tuple[Tensor, Tensor] | None,
        accumulate: Tensor | None = None,
        *,
        dtype: torch.dtype,
        added: _Added | None = None,
    ) -> Tensor:
        """Multiply, record the GEMM in the ledger, and call the observer if `operands` are given.

        Args:
            added: the part of X's mean, added to the rounded product and rounded with it.
        """
        gain = self.recipe[plan.which].gain
        product = plan.engine.multiply(
            left, right, gain=gain, dtype=dtype, accumulate=accumulate, fast=plan.which is Gemm.FPROP
        )
        split = added is not None
        ran = how(plan.engine, plan.on, plan.request, left, right, gain, split)
        self.ledger.add(self.label, plan.which, ran)
        if self.observer is not None and operands is not None:

            def came_out() -> Tensor:
                if accumulate is None:
                    return product
                nothing = torch.zeros_like(accumulate)
                return plan.engine.multiply(left, right, gain=gain, dtype=dtype, accumulate=nothing)

            uses, prepared = (plan.left, plan.right), (left, right)
            self.observer(Multiplied(self.label, plan.which, *operands, uses, prepared, came_out, added))
        return product if added is None else mean_split.add(product, *added)


_Added = tuple[Tensor | None, Tensor]  # column and row, see mean_split.add


@dataclass(frozen=True)
class _Input:
    """X (T, K) as Fprop and as Wgrad quantise it, and the mean (K,) that each lacks."""

    rows: Matrix
    columns: Matrix
    mean: Tensor | None = None
    columns_mean: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """X (T, K), transposed and quantised in the forward pass: Wgrad's right operand, and the mean (K,) it lacks."""

    use: Use
    columns: Narrow
    mean: Tensor | None = None


@dataclass(frozen=True)
class Backward:
    """Computes the two gradients in separate calls, so that the caller can start communication between them."""

    layer: Layer
    w_NK: Tensor
    dtype: torch.dtype
    dy_TN: Tensor | None  # for the observer, and for a Wgrad whose X lacks its mean
    dgrad: tuple[_Plan | None, Prepared | None]
    wgrad: tuple[_Plan | None, Prepared | None]

    def input_gradient(self) -> Tensor:
        """Compute Dgrad (T, K)."""
        plan, dy = self.dgrad
        assert plan is not None and dy is not None
        weight = self.layer._weight(plan, self.w_NK.t(), self.w_NK)
        operands = None if self.dy_TN is None else (self.dy_TN, self.w_NK.t())
        return self.layer._multiply(plan, dy, weight, operands, dtype=self.dtype)

    def weight_gradient(
        self,
        x_TK: Tensor | None,
        accumulate: Tensor | None,
        columns: Narrow | None = None,
        mean: Tensor | None = None,
    ) -> Tensor:
        """Compute Wgrad (N, K), added to `accumulate` if it is given.

        Args:
            x_TK: X in high precision; if `columns` is given, only the observer uses it.
            columns: X, quantised in the forward pass; mean: what it lacks.
        """
        plan, dy = self.wgrad
        assert plan is not None and dy is not None
        if x_TK is not None and self.layer.recipe.wgrad.mean_split:
            split = mean_split.split(x_TK)
            x_TK, mean = split.rest, split.mean
        if columns is not None:
            x: Prepared | None = plan.engine.restore(columns)
        else:
            assert x_TK is not None
            x = plan.engine.prepare(x_TK, None, plan.right)[1]
        assert x is not None
        operands = None if self.dy_TN is None or x_TK is None else (self.dy_TN.t(), x_TK.t())
        added = None
        if mean is not None:
            assert self.dy_TN is not None
            added = mean_split.of_gradient(self.dy_TN, mean)
        return self.layer._multiply(plan, dy, x, operands, accumulate, dtype=self.dtype, added=added)
