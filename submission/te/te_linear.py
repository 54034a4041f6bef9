"""The FP8 baseline with Transformer Engine's own linears: delayed, tensor-wise current and MXFP8 scaling.

Attention, norms, embedding and output head are the same as in every other arm; only the linears differ. The products
are counted in the same ledger as ours, described from the operands that Transformer Engine multiplied.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from kernels.formats import BF16, E4M3, E5M2, Element
from kernels.ledger import How, Ledger
from kernels.matmul.gemm import BackendError
from kernels.recipe import Format, Gemm, LinearRecipe, Quantizer, ScaleRule
from submission import precision
from submission.phases import Phase

# scaling -> the format that our recipe must have, so that the proof compares equal formats
SCALINGS = {"delayed": Format.FP8, "tensorwise": Format.FP8, "mxfp8": Format.MXFP8}
_QUANTIZERS = {  # name of the class that quantised an operand -> scaling
    "Float8Quantizer": "delayed",
    "Float8CurrentScalingQuantizer": "tensorwise",
    "MXFP8Quantizer": "mxfp8",
}
_LAYOUTS = {"NN": Gemm.DGRAD, "NT": Gemm.WGRAD}  # layouts of backward products; forward products have TN
_LABEL = "transformer engine linear"


class TeLinears(precision.Linears):
    """The two linear classes of a model with Transformer Engine, and the ledger of their GEMMs.

    Args:
        recipe: all three GEMMs in `fp8`, or in `mxfp8` with scale rule rceil, as Transformer Engine computes them.
        scaling: "delayed", "tensorwise" or "mxfp8".

    Raises:
        BackendError: Transformer Engine is missing, or does not support this scaling on this GPU.
        ValueError: the recipe differs from what this scaling computes.
    """

    def __init__(self, recipe: LinearRecipe, scaling: str):
        _require_format(recipe, scaling)
        _require_support(scaling)
        from megatron.core.extensions import transformer_engine as extension

        super().__init__(
            (Phase(recipe=recipe),), backend="native", keep_weights=False
        )  # Transformer Engine caches quantised weights itself
        self.scaling = scaling
        self.column = type("TeColumn", (extension.TEColumnParallelLinear,), _body())
        self.row = type("TeRow", (extension.TERowParallelLinear,), _body())
        self._modules: list[Any] = []
        _record_products()

    def megatron_options(self) -> dict[str, Any]:
        """Options for Megatron's TransformerConfig, in addition to the model's, that turn on Transformer Engine's FP8.

        Delayed scaling uses Transformer Engine's own defaults; Megatron's differ (a history of length 1).
        """
        return {
            "fp8": "e4m3" if self.scaling == "mxfp8" else "hybrid",
            "fp8_recipe": self.scaling,
            "fp8_amax_history_len": 1024,
            "fp8_amax_compute_algo": "max",
        }

    def name(self, model: torch.nn.Module) -> None:
        """Label every linear of the transformer layers, so that its GEMMs are counted under this label."""
        for label, module in precision.linear_layers(model, linear_kinds()):
            self._modules.append(module)
            module.register_forward_pre_hook(functools.partial(self._begin, label))
            module.register_forward_hook(functools.partial(self._end, label))

    def start_over(self) -> None:
        """Reset everything except the ledger: clear the largest magnitudes recorded by delayed scaling."""
        super().start_over()
        for module in self._modules:
            for direction in ("scaling_fwd", "scaling_bwd"):
                state = module.fp8_meta.get(direction)
                if getattr(state, "amax_history", None) is not None:
                    state.amax_history.zero_()
                    state.scale.fill_(1.0)

    def _begin(self, label: str, *_: Any) -> None:
        _Now.running = (self.ledger, label)

    def _end(self, label: str, module: Any, arguments: Any, output: Any) -> None:
        _Now.running = None
        node = output[0].grad_fn
        if node is not None:
            node.register_prehook(lambda gradients: self._begin(label))


class _Now:
    """The layer whose products run now. It is global, because autograd runs backward in a thread of its own."""

    running: tuple[Ledger, str] | None = None


def linear_kinds() -> tuple[type, ...]:
    """Classes of all parallel linears, ours and others': a recipe must apply to each instance.

    They include Megatron's classes for Transformer Engine, if these have been imported.
    """
    extension = sys.modules.get("megatron.core.extensions.transformer_engine")
    theirs = (extension.TELinear,) if extension is not None and extension.HAVE_TE else ()
    return (*precision.PARALLEL_LINEARS, *theirs)


def _body() -> dict[str, Any]:
    """Class body that adds weight gradients to Megatron's buffers inside the product, as our own linears do.

    The buffers' type is parallelism.gradient_reduce: FP32 by default, BF16 in every preset.

    It is set only on the linears: the configuration's gradient_accumulation_fusion also applies to Megatron's output
    head, which would then need apex.
    """

    def build(layer: Any, *arguments: Any, **options: Any) -> None:
        super(type(layer), layer).__init__(*arguments, **options)
        layer.fuse_wgrad_accumulation = True

    return {"__init__": build}


def _record_products() -> None:
    """Make every product of Transformer Engine's Linear add itself to the ledger; a second call does nothing."""
    from transformer_engine.pytorch.module import linear

    multiply = linear.general_gemm
    if hasattr(multiply, "is_recorded"):
        return

    @functools.wraps(multiply)
    def general_gemm(A: Any, B: Any, *arguments: Any, **options: Any) -> Any:
        product = multiply(A, B, *arguments, **options)
        if _Now.running is not None:
            ledger, label = _Now.running
            which = _LAYOUTS[options["layout"]] if options.get("grad") else Gemm.FPROP
            ledger.add(label, which, _how(B, A))
        return product

    general_gemm.is_recorded = True  # type: ignore[attr-defined]
    linear.general_gemm = general_gemm


def _how(left: Any, right: Any) -> How:
    """Describe a product from the multiplied operands: their types, elements and quantizers."""
    quantizers = [_quantizer(operand) for operand in (left, right)]
    return How(quantizers[0].format, quantizers[0], quantizers[1], "native", _engine(left))


def _engine(operand: Any) -> str:
    import transformer_engine

    scaling = _QUANTIZERS.get(type(getattr(operand, "_quantizer", None)).__name__, "high precision")
    return f"transformer engine {transformer_engine.__version__} {scaling}"


def _quantizer(operand: Any) -> Quantizer:
    """The quantizer of our recipes that describes an operand of Transformer Engine."""
    if type(operand) in (torch.Tensor, torch.nn.Parameter):
        return Quantizer(format=Format.BF16, element=BF16)
    made_by = type(getattr(operand, "_quantizer", None)).__name__
    if made_by not in _QUANTIZERS:
        raise ValueError(
            f"{_LABEL}: unknown quantizer {made_by} of an operand; known: {', '.join(_QUANTIZERS)}"
        )
    found = SCALINGS[_QUANTIZERS[made_by]]
    if found is Format.MXFP8:
        return Quantizer(format=found, element=_element(operand), scale_rule=ScaleRule.RCEIL)
    return Quantizer(format=found, element=_element(operand))


def _element(operand: Any) -> Element:
    """Our element type for the name of Transformer Engine's type."""
    return {"kFloat8E4M3": E4M3, "kFloat8E5M2": E5M2}[operand._fp8_dtype.name]


def _require_format(recipe: LinearRecipe, scaling: str) -> None:
    wanted = SCALINGS[scaling]
    for gemm in Gemm:
        found = recipe[gemm]
        rule = wanted is not Format.MXFP8 or found.scale_rule is ScaleRule.RCEIL
        if found.format is not wanted or found.hadamard or not rule:
            says = f"{found.format.value}, scale rule {found.scale_rule.value}, hadamard {found.hadamard}"
            allowed = "mxfp8, scale rule rceil" if wanted is Format.MXFP8 else wanted.value
            raise ValueError(
                f"recipe {recipe.name}, {gemm.value}: found {says}; with Transformer Engine's {scaling} scaling "
                f"choose {allowed} without a transform"
            )


def _require_support(scaling: str) -> None:
    try:
        from transformer_engine.pytorch import fp8
    except Exception as error:  # a missing package or a library that does not load may raise any type
        raise BackendError(
            f"Transformer Engine cannot be imported ({error}); install it (docs/transformer_engine.md) "
            "or choose an arm without it"
        ) from error
    check = fp8.check_mxfp8_support if scaling == "mxfp8" else fp8.check_fp8_support
    available, reason = check()
    if not available:
        raise BackendError(f"Transformer Engine has no {scaling} FP8 on this GPU: {reason}")
