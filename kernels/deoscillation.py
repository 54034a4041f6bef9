"""Sets weights that flip between two quantised values to the one they have: AMD's de-oscillation (ALTO, Primus).

Over a window of optimizer steps, for every element of a weight,

    D   = sum of |w_t - w_(t-1)|          D_Q = sum of |Q(w_t) - Q(w_(t-1))|

and at its end the master copy becomes Q(w) where D > 0 and D_Q >= ratio D; then the sums start at zero. Sources: ALTO's
alto/components/optimizer.py, and Section 3.4 of its report, which takes it from TetraJet-v2 (arXiv 2510.27527).

Q is what Fprop multiplies: the weight as the products read it (Megatron: BF16), in Fprop's blocks along the input
features. With square blocks Dgrad multiplies the same values; with blocks of one row Dgrad's own Q plays no part. A
transform or stochastic rounding of the weight is refused: its Q mixes elements, or is another at every look.

The end of a window is decided before the next update, when the products have read w_t. Nothing is lost by that: Q(w)
and w are the same number for Fprop (in NVFP4 up to the scale of the tensor). No value is copied to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.matmul.emulated import Emulated
from kernels.operand_use import Use
from kernels.recipe import Format, Gemm, GemmRecipe, Operand, Quantizer, Rounding

FOUR_BITS = (Format.MXFP4, Format.NVFP4)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    Args:
        steps: optimizer steps of a window.
        ratio: of D_Q to D, from which an element counts as oscillating.
        start: optimizer steps before the first window.
    """

    steps: int
    ratio: float = 4.0
    start: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.ratio <= 0 or self.start < 0:
            raise ValueError(
                f"de-oscillation: found steps {self.steps}, ratio {self.ratio}, start {self.start}; "
                "allowed: steps 1 or more, ratio above 0, start 0 or more"
            )


def quantizer_of(fprop: GemmRecipe) -> Quantizer:
    """The weight's quantizer in Fprop.

    Raises:
        ValueError: it has no fixed Q in the weight's own elements.
    """
    found = fprop.quantizer(Gemm.FPROP, Operand.RIGHT)
    if found.format not in FOUR_BITS or found.points or found.rounding is Rounding.STOCHASTIC:
        raise ValueError(
            f"de-oscillation: fprop has {found.format.value}, transform {found.transform}, {found.rounding.value} "
            "rounding of the weight; allowed: mxfp4 or nvfp4 without a transform and to nearest"
        )
    return found


@dataclass(frozen=True)
class Weight:
    """A weight and its master copy.

    Args:
        read_NK: (N, K), as the products read it.
        master: FP32: the weight's elements from `first` on, of any shape. A rank may hold a part of them.
    """

    read_NK: Tensor
    master: Tensor
    quantizer: Quantizer
    first: int = 0

    def quantised(self) -> Tensor:
        """Q of the master's elements, in FP32 and the master's shape."""
        N, K = self.read_NK.shape
        last, rows = self.first + self.master.numel(), self.quantizer.rows
        top, bottom = 0, N
        if self.quantizer.format is not Format.NVFP4:  # whose scale depends on the whole weight
            top, bottom = self.first // K // rows * rows, math.ceil(math.ceil(last / K) / rows) * rows
        part = self.read_NK.detach()[top:bottom]
        prepared, _ = Emulated().prepare(part, Use(self.quantizer), None)
        assert prepared is not None
        values = prepared.values.float()
        if prepared.scale is not None:
            values = values * prepared.scale
        begin = self.first - top * K
        found = values.reshape(-1)[begin : begin + self.master.numel()] / self.quantizer.prescale
        return found.view_as(self.master)


@dataclass
class _Tracked:
    weight: Weight
    moved: Tensor  # D
    flipped: Tensor  # D_Q
    quantised: Tensor  # Q at the last look
    before: Tensor | None = None  # the master before the update


class DeOscillation:
    """Follows the weights of one optimizer: call `before_update` and `after_update` around each of its steps.

    Three FP32 tensors of the master's size are kept, and a fourth lives during an update.
    """

    def __init__(self, settings: Settings, weights: Sequence[Weight]):
        self.settings, self._weights = settings, tuple(weights)
        self._tracked: list[_Tracked] = []
        self._steps = 0  # of the window that have passed
        self._snapped: Tensor | None = None

    @property
    def snapped(self) -> Tensor | None:
        """() int64 on the weights' device: how often an element was set to its quantised value."""
        return self._snapped

    def start_over(self) -> None:
        """Forget all windows."""
        self._tracked, self._steps, self._snapped = [], 0, None

    @torch.no_grad()
    def before_update(self, done: int) -> None:
        """Look at the weights, and end a window that is full.

        Args:
            done: optimizer steps so far.
        """
        if done < self.settings.start or not self._weights:
            return
        if not self._tracked:
            self._begin()
        else:
            self._look()
        if self._steps == self.settings.steps:
            self._end()
        for one in self._tracked:
            one.before = one.weight.master.detach().clone()

    @torch.no_grad()
    def after_update(self) -> None:
        before = [one.before for one in self._tracked if one.before is not None]
        if not before:
            return
        differences = torch._foreach_sub([one.weight.master.detach() for one in self._tracked], before)
        torch._foreach_add_([one.moved for one in self._tracked], torch._foreach_abs(differences))
        for one in self._tracked:
            one.before = None

    def _begin(self) -> None:
        for weight in self._weights:
            zero = torch.zeros_like(weight.master, memory_format=torch.contiguous_format)
            self._tracked.append(_Tracked(weight, zero, zero.clone(), weight.quantised()))
        self._snapped = torch.zeros((), dtype=torch.int64, device=self._weights[0].master.device)

    def _look(self) -> None:
        for one in self._tracked:
            now = one.weight.quantised()
            one.flipped += (now - one.quantised).abs_()
            one.quantised = now
        self._steps += 1

    def _end(self) -> None:
        assert self._snapped is not None
        for one in self._tracked:
            master = one.weight.master.detach()
            flips = (one.moved > 0) & (one.flipped >= self.settings.ratio * one.moved)
            master.copy_(torch.where(flips, one.quantised, master))
            self._snapped += flips.sum()
            one.moved.zero_()
            one.flipped.zero_()
        self._steps = 0
