"""Our MX quantisers and products as a quantizer factory for Transformer Engine's CustomRecipe, 2.9 and later.

Users of Megatron or NeMo select it with --fp4-format e2m1 --fp4-recipe custom
--fp4-quantizer-factory submission.te_quantizer.mxfp4. docs/transformer_engine.md lists what it needs and what has run.

Transformer Engine quantises each tensor once for two products. `rowwise` is the tensor itself, `columnwise` its
transpose. Every product is then left (M, K) times right (N, K) transposed, with the operands of kernels.recipe.Operand.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels import architectures
from kernels.formats import E2M1
from kernels.matmul import engine_probe
from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.matmul.gemm import choose, uses
from kernels.nn import AMD_TE
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Format, Gemm, LinearRecipe, Operand, Quantizer, Signs
from submission.te import te_fixes

try:
    from transformer_engine.pytorch.quantized_tensor import QuantizedTensorStorage
    from transformer_engine.pytorch.quantized_tensor import Quantizer as TeQuantizer
except ImportError:  # Transformer Engine 2.9
    from transformer_engine.pytorch.tensor.quantized_tensor import QuantizedTensorStorage
    from transformer_engine.pytorch.tensor.quantized_tensor import Quantizer as TeQuantizer

# tensor -> the GEMM that takes the tensor itself as its left or right operand, and the GEMM that takes its transpose
_ROLES = {
    "input": ((Gemm.FPROP, Operand.LEFT), (Gemm.WGRAD, Operand.RIGHT)),
    "weight": ((Gemm.FPROP, Operand.RIGHT), (Gemm.DGRAD, Operand.RIGHT)),
    "grad_output": ((Gemm.DGRAD, Operand.LEFT), (Gemm.WGRAD, Operand.LEFT)),
}


def mxfp4(role: Any) -> Any:
    """The quantizer factory of the recipe `amd-te`: MXFP4 with a Hadamard transform of 16 points in all three GEMMs."""
    return quantizer_for(role, AMD_TE)


def quantizer_for(role: Any, recipe: LinearRecipe, randomness: Randomness | None = None) -> Any:
    """The quantizer of one tensor of a linear layer; call it in your own quantizer factory for another recipe.

    Args:
        role: a name such as "linear_input" (Transformer Engine 2.9 to 2.15), or a QuantizerRole or None (from 2.16).
        recipe: a recipe of MX formats.
        randomness: needed by recipes that draw random numbers; use one object for all tensors of a process.

    Raises:
        ValueError: Transformer Engine's interface cannot run this recipe.
    """
    _require(recipe, randomness)
    te_fixes.install()
    kind = _kind(role)
    return MxQuantizer(kind, recipe, randomness) if kind in _ROLES else _high_precision(role)


def randomness(seed: int) -> Randomness:
    """Source of this rank's random numbers: roundings differ between ranks, signs are the same."""
    return Randomness(seed, dist.get_rank() if dist.is_initialized() else 0)


class MxStorage(QuantizedTensorStorage):
    """A quantised matrix: `data` is the matrix itself, `data_t` its transpose; either may be absent.

    Transformer Engine's custom_gemm reads these names. Scales are an empty tensor where the engine has multiplied them
    into the values.
    """

    custom = True  # tells Transformer Engine that it cannot read the layout
    experimental = True  # the same in 2.9

    def __init__(self) -> None:
        self.data: Tensor | None = None
        self.scale: Tensor | None = None
        self.data_t: Tensor | None = None
        self.scale_t: Tensor | None = None

    def hold(
        self, quantizer: MxQuantizer, like: Tensor, rows: Prepared | None, columns: Prepared | None
    ) -> None:
        """Store the two orientations that `quantizer` computed from the tensor `like`."""
        self._quantizer = quantizer
        self.dtype = self._dtype = like.dtype
        self.device, self.original_shape = like.device, tuple(like.shape)
        self.data, self.scale = _fields(rows)
        self.data_t, self.scale_t = _fields(columns)

    def size(self, *dimension: int) -> Any:
        return torch.Size(self.original_shape)[dimension[0]] if dimension else torch.Size(self.original_shape)

    def update_usage(self, rowwise_usage: bool | None = None, columnwise_usage: bool | None = None) -> None:
        if (rowwise_usage and self.data is None) or (columnwise_usage and self.data_t is None):
            raise RuntimeError(
                "update_usage: only the other orientation was quantised; each has its own blocks, so quantise again "
                "from the high-precision tensor"
            )
        if rowwise_usage is False:
            self.data = self.scale = None
        if columnwise_usage is False:
            self.data_t = self.scale_t = None

    def get_usages(self) -> dict[str, bool]:
        return {"rowwise": self.data is not None, "columnwise": self.data_t is not None}

    def prepare_for_saving(self) -> tuple[list[Tensor | None], MxStorage]:
        """Return the tensors, and a copy of this object without them, which backward fills again.

        This object keeps its tensors: it may be a layer's cached weight, and the next micro batch may read that weight
        before the backward pass of the current one.
        """
        shell = copy.copy(self)
        shell.clear()
        return [self.data, self.scale, self.data_t, self.scale_t], shell

    def restore_from_saved(self, tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        self.data, self.scale, self.data_t, self.scale_t = tensors[:4]
        return tensors[4:]

    def clear(self) -> None:
        """Release the tensors; Transformer Engine calls this after the last use."""
        self.data = self.scale = self.data_t = self.scale_t = None


class MxQuantizer(TeQuantizer):
    """Quantises one tensor of a linear for its two products, and computes the products whose left operand it is."""

    custom = True
    experimental = True

    def __init__(self, kind: str, recipe: LinearRecipe, randomness: Randomness | None):
        super().__init__(rowwise=True, columnwise=True)
        self.internal = True  # return a storage without autograd, not a tensor
        self.recipe, self.kind, self._randomness = recipe, kind, randomness

    def quantize(
        self, tensor: Tensor, *, out: MxStorage | None = None, dtype: Any = None, **_: Any
    ) -> MxStorage:
        """Quantise the orientations that the usage flags request; both in one pass."""
        return self.update_quantized(tensor, MxStorage() if out is None else out)

    def update_quantized(self, src: Tensor, dst: MxStorage, *, noop_flag: Tensor | None = None) -> MxStorage:
        if noop_flag is not None and noop_flag.item():
            return dst
        x_RC = src.detach().reshape(-1, src.size(-1))
        rows = self._use(0, x_RC) if self.rowwise_usage else None
        columns = self._use(1, x_RC) if self.columnwise_usage else None
        dst.hold(self, src, *_prepare(x_RC, rows, columns))
        return dst

    def qgemm(
        self, qx: Tensor, qw: Tensor, m_params: Any, out_dtype: torch.dtype, sx: Tensor, sw: Tensor,
        bias: Tensor | None = None, out: Tensor | None = None, accumulate: bool = False, gemm_type: Any = None,
        qresult_x: Any = None, qresult_w: Any = None,
    ) -> Tensor:  # fmt: skip
        """(M, N) = qx qw^T; Transformer Engine calls it on the left operand's quantizer."""
        which = Gemm(gemm_type.value)
        left, right = (
            Prepared(values, self.recipe[which].quantizer(which, operand), scales if scales.numel() else None)
            for values, scales, operand in zip((qx, qw), (sx, sw), Operand, strict=True)
        )
        other = self.recipe if qresult_w is None else qresult_w._quantizer.recipe
        if other != self.recipe:
            raise ValueError(
                f"{which.value}: the operands have different recipes, {self.recipe.name} and {other.name}"
            )
        shape, gain = (qx.size(0), qw.size(0), _contracted(left)), self.recipe[which].gain
        # a weight gradient is rounded to the operands' type before it enters main_grad, as with our own linears
        dtype = qresult_x.dtype if which is Gemm.WGRAD and qresult_x is not None else out_dtype
        request = Request(left.quantizer, right.quantizer, *shape, gain, dtype)
        engine = choose(architectures.of(qx.device), request, probes=engine_probe.of(qx))
        into = out if accumulate else None
        product = engine.multiply(left, right, gain=gain, dtype=dtype, accumulate=into)
        product = product if accumulate else product.to(out_dtype)
        return product if bias is None else product + bias

    def supports_only_rowwise_all_gather(self) -> bool:
        return False

    def is_requantization_safe(self) -> bool:
        """Whether quantising again gives the same bits, so that a result may be dropped and computed again."""
        return not any(self._quantizer(i).rounding.is_random for i in (0, 1))

    def _get_compatible_recipe(self) -> Any:
        return importlib.import_module("transformer_engine.common.recipe").CustomRecipe

    def _quantizer(self, orientation: int) -> Quantizer:
        which, operand = _ROLES[self.kind][orientation]
        return self.recipe[which].quantizer(which, operand)

    def _use(self, orientation: int, like: Tensor) -> Use:
        which, operand = _ROLES[self.kind][orientation]
        operand_RK = like.t() if orientation else like
        left, right = uses(self.recipe[which], which, self._randomness, operand_RK)
        return left if operand is Operand.LEFT else right


def _prepare(x_RC: Tensor, rows: Use | None, columns: Use | None) -> tuple[Prepared | None, Prepared | None]:
    """Quantise in the layout of the engine that would multiply this operand by one with as many rows.

    The other operand's rows are not known yet. They do not matter: on one device all engines of a format use the same
    layout.
    """
    along = _engine(x_RC, rows) if rows else None
    across = _engine(x_RC.t(), columns) if columns else None
    if along is across and along is not None:
        return along.prepare(x_RC, rows, columns)
    first = along.prepare(x_RC, rows, None)[0] if along else None
    second = across.prepare(x_RC, None, columns)[1] if across else None
    return first, second


def _engine(x_RK: Tensor, use: Use) -> Engine:
    R, K = x_RK.shape
    request = Request(use.quantizer, use.quantizer, R, R, K)
    return choose(architectures.of(x_RK.device), request, probes=engine_probe.of(x_RK))


def _fields(prepared: Prepared | None) -> tuple[Tensor | None, Tensor | None]:
    if prepared is None:
        return None, None
    values, scales = prepared.values, prepared.scales
    return values, values.new_empty(0) if scales is None else scales


def _contracted(operand: Prepared) -> int:
    """Length of the contracted dimension in elements; a byte holds two E2M1 codes."""
    packed = operand.scales is not None and operand.quantizer.element is E2M1
    return operand.values.size(1) * (2 if packed else 1)


def _kind(role: Any) -> str | None:
    """The kind of tensor: input, weight or grad_output of a linear layer; all other kinds stay in high precision."""
    if isinstance(role, str):
        return role.removeprefix("linear_")
    return role.tensor_type if role is not None and role.module_type == "linear" else None


def _high_precision(role: Any) -> Any:
    """A quantizer for a linear's output and its input gradient, which are not quantised."""
    if isinstance(role, str):
        return None
    try:
        from transformer_engine.pytorch.tensor.identity_tensor import IdentityQuantizer
    except ImportError:  # 2.16 refuses None and has no identity quantizer: return one that is never called
        return TeQuantizer(rowwise=True, columnwise=True)
    return IdentityQuantizer()


def _require(recipe: LinearRecipe, randomness: Randomness | None) -> None:
    for gemm in Gemm:
        found = recipe[gemm]
        if found.format not in (Format.MXFP4, Format.MXFP8):
            raise ValueError(
                f"recipe {recipe.name}, {gemm.value}: found {found.format.value}; allowed: mxfp4, mxfp8 "
                "(use Transformer Engine's own recipes for the others)"
            )
        if found.mean_split:
            raise ValueError(
                f"recipe {recipe.name}, {gemm.value}: found mean_split; allowed: without it "
                "(Transformer Engine adds nothing to a product)"
            )
        if found.signs is Signs.STEP:
            raise ValueError(
                f"recipe {recipe.name}, {gemm.value}: found signs step; allowed: none, fixed "
                "(Transformer Engine does not tell a quantizer the optimizer step)"
            )
    if recipe.is_random and randomness is None:
        raise ValueError(
            f"recipe {recipe.name}: it draws random numbers but no randomness was given; pass one"
        )
