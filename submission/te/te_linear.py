"""The FP8 baseline on Transformer Engine's own linears: delayed, tensor-wise current and MXFP8 scaling.

Attention, norms, embedding and output head are those of every other arm: what differs between two arms is the linears.
What ran is entered into the same ledger as our own products, from the operands that Transformer Engine multiplied.
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

# name -> the format a recipe of ours must have, so that the proof compares like with like
SCALINGS = {"delayed": Format.FP8, "tensorwise": Format.FP8, "mxfp8": Format.MXFP8}
_QUANTIZERS = {  # by the name of the class that quantised an operand
    "Float8Quantizer": "delayed",
    "Float8CurrentScalingQuantizer": "tensorwise",
    "MXFP8Quantizer": "mxfp8",
}
_LAYOUTS = {"NN": Gemm.DGRAD, "NT": Gemm.WGRAD}  # of backward products; forward ones are TN
_LABEL = "transformer engine linear"


class TeLinears(precision.Linears):
    """The two linear classes of a model on Transformer Engine, and the ledger of what they ran.

    Args:
        recipe: all three GEMMs in `fp8`, or in `mxfp8` with scale rule rceil: what Transformer Engine does.
        scaling: "delayed", "tensorwise" or "mxfp8".

    Raises:
        BackendError: Transformer Engine is missing, or has no such FP8 on this GPU.
        ValueError: the recipe says something else than this scaling does.
    """

    def __init__(self, recipe: LinearRecipe, scaling: str):
        _require_format(recipe, scaling)
        _require_support(scaling)
        from megatron.core.extensions import transformer_engine as extension

        super().__init__(
            (Phase(recipe=recipe),), backend="native", keep_weights=False
        )  # Transformer Engine keeps its own
        self.scaling = scaling
        self.column = type("TeColumn", (extension.TEColumnParallelLinear,), _body())
        self.row = type("TeRow", (extension.TERowParallelLinear,), _body())
        self._modules: list[Any] = []
        _record_products()

    def megatron_options(self) -> dict[str, Any]:
        """What Megatron's TransformerConfig must hold besides the model: it opens Transformer Engine's FP8 context.

        Delayed scaling takes Transformer Engine's own defaults, of which Megatron's differ (a history of 1).
        """
        return {
            "fp8": "e4m3" if self.scaling == "mxfp8" else "hybrid",
            "fp8_recipe": self.scaling,
            "fp8_amax_history_len": 1024,
            "fp8_amax_compute_algo": "max",
        }

    def name(self, model: torch.nn.Module) -> None:
        """Watch every linear of the transformer layers under its label."""
        for label, module in precision.linear_layers(model, linear_kinds()):
            self._modules.append(module)
            module.register_forward_pre_hook(functools.partial(self._begin, label))
            module.register_forward_hook(functools.partial(self._end, label))

    def start_over(self) -> None:
        """As newly made, but for the ledger: delayed scaling forgets the magnitudes it has seen."""
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
    """Whose products are being multiplied. Backward runs in a thread of autograd's, while forward's waits for it."""

    running: tuple[Ledger, str] | None = None


def linear_kinds() -> tuple[type, ...]:
    """Classes of all parallel linears, whoever implements them: what a recipe must reach.

    Transformer Engine's, as Megatron wraps them, are among them once something has imported it.
    """
    extension = sys.modules.get("megatron.core.extensions.transformer_engine")
    theirs = (extension.TELinear,) if extension is not None and extension.HAVE_TE else ()
    return (*precision.PARALLEL_LINEARS, *theirs)


def _body() -> dict[str, Any]:
    """Weight gradients are added to Megatron's buffers inside the product, as our own linears do.

    The buffers' type is parallelism.gradient_reduce: FP32 unless said otherwise, BF16 in every preset.

    Set here, on the linears alone: the configuration's gradient_accumulation_fusion also concerns Megatron's output
    head, which would then need apex.
    """

    def build(layer: Any, *arguments: Any, **options: Any) -> None:
        super(type(layer), layer).__init__(*arguments, **options)
        layer.fuse_wgrad_accumulation = True

    return {"__init__": build}


def _record_products() -> None:
    """Let every product of Transformer Engine's Linear enter itself into the ledger; doing it twice does nothing."""
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
    """From the operands as they were multiplied: their types, elements and what quantised them."""
    quantizers = [_quantizer(operand) for operand in (left, right)]
    return How(quantizers[0].format, quantizers[0], quantizers[1], "native", _engine(left))


def _engine(operand: Any) -> str:
    import transformer_engine

    scaling = _QUANTIZERS.get(type(getattr(operand, "_quantizer", None)).__name__, "high precision")
    return f"transformer engine {transformer_engine.__version__} {scaling}"


def _quantizer(operand: Any) -> Quantizer:
    """An operand in the words of our recipes."""
    if type(operand) in (torch.Tensor, torch.nn.Parameter):
        return Quantizer(format=Format.BF16, element=BF16)
    made_by = type(getattr(operand, "_quantizer", None)).__name__
    if made_by not in _QUANTIZERS:
        raise ValueError(f"{_LABEL}: found an operand of {made_by}; known: {', '.join(_QUANTIZERS)}")
    found = SCALINGS[_QUANTIZERS[made_by]]
    if found is Format.MXFP8:
        return Quantizer(format=found, element=_element(operand), scale_rule=ScaleRule.RCEIL)
    return Quantizer(format=found, element=_element(operand))


def _element(operand: Any) -> Element:
    """By the name of Transformer Engine's type."""
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
                f"recipe {recipe.name}, {gemm.value}: found {says}; Transformer Engine's {scaling} scaling does "
                f"{allowed} without a transform"
            )


def _require_support(scaling: str) -> None:
    try:
        from transformer_engine.pytorch import fp8
    except Exception as error:  # a missing package, or a library that does not load: it raises what it likes
        raise BackendError(
            f"Transformer Engine cannot be imported ({error}); install it (docs/transformer_engine.md) or take an arm "
            "without it"
        ) from error
    check = fp8.check_mxfp8_support if scaling == "mxfp8" else fp8.check_fp8_support
    available, reason = check()
    if not available:
        raise BackendError(f"Transformer Engine has no {scaling} FP8 on this GPU: {reason}")
