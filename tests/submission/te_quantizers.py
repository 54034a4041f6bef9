"""What the contract asks of a quantizer by itself; called by te_contract.py, in its process."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def matrix() -> Tensor:
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(3)).bfloat16()


def mx_recipe(name: str, **options: Any) -> Any:
    from kernels.recipe import Format, GemmRecipe, LinearRecipe

    gemm = GemmRecipe(**{"format": Format.MXFP4, **options})
    return LinearRecipe(name, gemm, gemm, gemm)


def usage() -> dict[str, Any]:
    from submission.te_quantizer import mxfp4

    x, found = matrix(), {}
    for name, flags in (("rowwise", (True, False)), ("columnwise", (False, True)), ("both", (True, True))):
        quantizer = mxfp4("linear_input")
        quantizer.set_usage(rowwise=flags[0], columnwise=flags[1])
        storage = quantizer(x)
        found[name] = storage.get_usages()
    storage.update_usage(rowwise_usage=False)
    return {**found, "updated": storage.get_usages()}


def derived() -> str:
    """Asking for the orientation that was not made."""
    from submission.te_quantizer import mxfp4

    quantizer = mxfp4("linear_weight")
    quantizer.set_usage(columnwise=False)
    return _failure(lambda: quantizer(matrix()).update_usage(columnwise_usage=True))


def requantising() -> dict[str, Any]:
    from kernels.recipe import Stochastic
    from submission.te_quantizer import quantizer_for, randomness

    found = {}
    for name, stochastic in (("nearest", Stochastic.NONE), ("stochastic gradients", Stochastic.GRADIENTS)):
        recipe, draws = mx_recipe(name, stochastic=stochastic), randomness(7)
        made = [quantizer_for(f"linear_{kind}", recipe, draws) for kind in ("input", "weight", "grad_output")]
        x = matrix()
        repeats = [torch.equal(quantizer(x).data, quantizer(x).data) for quantizer in made]
        found[name] = {"safe": [quantizer.is_requantization_safe() for quantizer in made], "repeats": repeats}
    return found


def roles() -> dict[str, Any]:
    """What the factory returns for each slot of a linear, by the names of old versions and of this one."""
    from transformer_engine.pytorch import quantization

    from submission.te_quantizer import mxfp4

    kinds = ("input", "weight", "grad_output", "output", "grad_input")
    found = {"strings": [getattr(mxfp4(f"linear_{kind}"), "kind", None) for kind in kinds]}
    role = getattr(quantization, "QuantizerRole", types.SimpleNamespace)  # of 2.16 and later
    slots = [role(module_type="linear", tensor_type=kind) for kind in kinds[:3]]
    slots += [None, role(module_type="", tensor_type=""), role(module_type="dpa", tensor_type="qkv")]
    return {**found, "roles": [getattr(mxfp4(slot), "kind", "high precision") for slot in slots]}


def refused() -> list[str]:
    from kernels.recipe import Format, Signs
    from submission.te_quantizer import quantizer_for

    recipes = (
        mx_recipe("fp8", format=Format.FP8),
        mx_recipe("steps", hadamard=16, signs=Signs.STEP),
        mx_recipe("fixed", hadamard=16, signs=Signs.FIXED),
    )
    return [_failure(lambda recipe=recipe: quantizer_for("linear_input", recipe)) for recipe in recipes]


def _failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"
    return "nothing"


SCENARIOS: dict[str, Callable[[], Any]] = {
    "usage": usage,
    "derived": derived,
    "requantising": requantising,
    "roles": roles,
    "refused": refused,
}
