"""Runs in a process of its own: Transformer Engine's Linear over our quantizer. Prints one JSON document of findings.

python -m tests.submission.te_contract
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.submission import te_stub

T, K, N = 64, 96, 128  # tokens, input features, output features


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((T, K), (T, N), (N, K))
    x, dy, w = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return x, dy, w


def linear(w: Tensor, **options: Any) -> Any:
    """Transformer Engine's Linear with these weights."""
    import transformer_engine.pytorch as te

    with te_stub.OnGpu():
        made = te.Linear(K, N, bias=False, params_dtype=torch.bfloat16, device="cpu", **options)
    made.weight.data.copy_(w)
    return made


def forward(layer: Any, x: Tensor, factory: Any, **options: Any) -> Tensor:
    from transformer_engine.common.recipe import CustomRecipe
    from transformer_engine.pytorch import fp8_autocast

    with te_stub.OnGpu(), fp8_autocast(enabled=True, fp8_recipe=CustomRecipe(qfactory=factory)):
        return layer(x, **options)


def backward(y: Tensor, dy: Tensor) -> None:
    with te_stub.OnGpu():
        te_stub.backward(y, dy)


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def reference(recipe: Any) -> dict[str, Tensor]:
    """The three products in FP64 of operands quantised by the specification."""
    from kernels.quantize.reference import dequantize, quantize
    from kernels.recipe import Gemm, Operand

    x, dy, w = inputs()
    operands = {Gemm.FPROP: (x, w), Gemm.DGRAD: (dy, w.t()), Gemm.WGRAD: (dy.t(), x.t())}

    def product(gemm: Any) -> Tensor:
        left, right = (
            dequantize(quantize(value.contiguous(), recipe[gemm].quantizer(gemm, operand))).double()
            for value, operand in zip(operands[gemm], Operand, strict=True)
        )
        return left @ right.t()

    return {"y": product(Gemm.FPROP), "dx": product(Gemm.DGRAD), "dw": product(Gemm.WGRAD)}


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def three_products() -> dict[str, float]:
    """y, dx and dw of one layer against the specification."""
    from kernels.nn import AMD_TE
    from submission.te_quantizer import mxfp4

    (x, dy, w), wanted = inputs(), reference(AMD_TE)
    layer, x = linear(w), leaf(x)
    y = forward(layer, x, mxfp4)
    backward(y, dy)
    found = {"y": y.detach(), "dx": x.grad, "dw": layer.weight.grad}
    return {name: error(found[name], wanted[name]) for name in wanted}


def same_bits_as_ours() -> dict[str, bool]:
    """The same layer as kernels.nn.Linear, three-dimensional as Megatron passes it."""
    from kernels import nn
    from submission.te_quantizer import mxfp4

    x, dy, w = inputs()
    x, dy = x.view(T // 2, 2, K), dy.view(T // 2, 2, N)
    theirs, ours = linear(w), nn.Linear(K, N, bias=False, dtype=torch.bfloat16)
    ours.weight.data.copy_(w)
    a, b = leaf(x), leaf(x)
    y = forward(theirs, a, mxfp4)
    backward(y, dy)
    z = ours(b)
    z.backward(dy)
    pairs = {"y": (y, z), "dx": (a.grad, b.grad), "dw": (theirs.weight.grad, ours.weight.grad)}
    return {name: torch.equal(*pair) for name, pair in pairs.items()}


def fused_weight_gradient(*, fixed: bool) -> dict[str, Any]:
    """main_grad after two micro batches, relative to twice the weight gradient."""
    from transformer_engine.pytorch.cpp_extensions import gemm

    from kernels.nn import AMD_TE
    from submission.te_quantizer import mxfp4

    mxfp4("linear_input")  # installs the fix
    repaired = gemm.custom_gemm
    if not fixed:
        gemm.custom_gemm = repaired.__wrapped__
    factory = mxfp4 if fixed else _unfixed
    x, dy, w = inputs()
    layer = linear(w, fuse_wgrad_accumulation=True)
    layer.weight.main_grad = torch.zeros(N, K)
    layer.weight.grad_added_to_main_grad = False
    for _ in range(2):
        backward(forward(layer, leaf(x), factory), dy)
    gemm.custom_gemm = repaired
    wanted = 2 * reference(AMD_TE)["dw"]
    return {
        "error": error(layer.weight.main_grad, wanted),
        "largest": layer.weight.main_grad.abs().max().item(),
        "marked": layer.weight.grad_added_to_main_grad,
    }


def _unfixed(role: Any) -> Any:
    """The quantizer without what a factory call puts right."""
    from kernels.nn import AMD_TE
    from submission import te_quantizer

    kind = te_quantizer._kind(role)
    known = kind in te_quantizer._ROLES
    return te_quantizer.MxQuantizer(kind, AMD_TE, None) if known else te_quantizer._high_precision(role)


def cached_weight(*, copies: bool = True) -> dict[str, Any]:
    """Two forward passes before the backward passes, as 1F1B runs them, with the weight quantised once."""
    from submission import te_quantizer

    keeps = te_quantizer.MxStorage.prepare_for_saving
    if not copies:
        te_quantizer.MxStorage.prepare_for_saving = _emptying
    x, dy, w = inputs()
    layer, first, second = linear(w), leaf(x), leaf(x)
    try:
        y1 = forward(layer, first, te_quantizer.mxfp4, is_first_microbatch=True)
        y2 = forward(layer, second, te_quantizer.mxfp4, is_first_microbatch=False)
        backward(y1, dy)
        backward(y2, dy)
    except Exception as failure:
        return {"failure": f"{type(failure).__name__}: {failure}"}
    finally:
        te_quantizer.MxStorage.prepare_for_saving = keeps
    return {"y": torch.equal(y1, y2), "dx": torch.equal(first.grad, second.grad), "failure": None}


def _emptying(storage: Any) -> Any:
    """As Transformer Engine's own reference quantizer saves: the object itself loses its tensors."""
    tensors = [storage.data, storage.scale, storage.data_t, storage.scale_t]
    storage.clear()
    return tensors, storage


def changed_weight() -> dict[str, bool]:
    """After an optimizer step the first micro batch quantises anew, later ones reuse."""
    from submission.te_quantizer import mxfp4

    x, _, w = inputs()
    layer = linear(w)
    before = forward(layer, leaf(x), mxfp4, is_first_microbatch=True)
    layer.weight.data.mul_(2)
    kept = forward(layer, leaf(x), mxfp4, is_first_microbatch=False)
    after = forward(layer, leaf(x), mxfp4, is_first_microbatch=True)
    return {"kept": torch.equal(kept, before), "after": torch.equal(after, before * 2)}


def _recipe(name: str, **options: Any) -> Any:
    from kernels.recipe import Format, GemmRecipe, LinearRecipe

    gemm = GemmRecipe(**{"format": Format.MXFP4, **options})
    return LinearRecipe(name, gemm, gemm, gemm)


def fixed_signs() -> dict[str, float]:
    """y, dx and dw against the products of what was not quantised."""
    from kernels.recipe import Signs
    from submission.te_quantizer import quantizer_for, randomness

    (x, dy, w), recipe, draws = inputs(), _recipe("fixed", hadamard=32, signs=Signs.FIXED), randomness(7)
    layer, xi = linear(w), leaf(x)
    y = forward(layer, xi, lambda role: quantizer_for(role, recipe, draws))
    backward(y, dy)
    found, exact = (y, xi.grad, layer.weight.grad), (x @ w.t(), dy @ w, dy.t() @ x)
    return {
        name: error(*pair)
        for name, pair in zip(("y", "dx", "dw"), zip(found, exact, strict=True), strict=True)
    }


def usage() -> dict[str, Any]:
    from submission.te_quantizer import mxfp4

    x, found = inputs()[0], {}
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
    return _failure(lambda: quantizer(inputs()[2]).update_usage(columnwise_usage=True))


def requantising() -> dict[str, Any]:
    from kernels.recipe import Stochastic
    from submission.te_quantizer import quantizer_for, randomness

    found = {}
    for name, stochastic in (("nearest", Stochastic.NONE), ("stochastic gradients", Stochastic.GRADIENTS)):
        recipe, draws = _recipe(name, stochastic=stochastic), randomness(7)
        made = [quantizer_for(f"linear_{kind}", recipe, draws) for kind in ("input", "weight", "grad_output")]
        x = inputs()[0]
        repeats = [torch.equal(quantizer(x).data, quantizer(x).data) for quantizer in made]
        found[name] = {"safe": [quantizer.is_requantization_safe() for quantizer in made], "repeats": repeats}
    return found


def roles() -> dict[str, Any]:
    """What the factory returns for each slot of a linear, by the names of old versions and of this one."""
    from transformer_engine.pytorch import quantization

    from submission.te_quantizer import mxfp4

    kinds = ("input", "weight", "grad_output", "output", "grad_input")
    found = {"strings": [getattr(mxfp4(f"linear_{kind}"), "kind", None) for kind in kinds]}
    role = quantization.QuantizerRole
    slots = [role(module_type="linear", tensor_type=kind) for kind in kinds[:3]]
    slots += [None, role(), role(module_type="dpa", tensor_type="qkv")]
    return {**found, "roles": [getattr(mxfp4(slot), "kind", "high precision") for slot in slots]}


def refused() -> list[str]:
    from kernels.recipe import Format, Signs
    from submission.te_quantizer import quantizer_for

    recipes = (
        _recipe("fp8", format=Format.FP8),
        _recipe("steps", hadamard=16, signs=Signs.STEP),
        _recipe("fixed", hadamard=16, signs=Signs.FIXED),
    )
    return [_failure(lambda recipe=recipe: quantizer_for("linear_input", recipe)) for recipe in recipes]


def _failure(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"
    return "nothing"


SCENARIOS: dict[str, Callable[[], Any]] = {
    "three products": three_products,
    "same bits": same_bits_as_ours,
    "fused, fixed": lambda: fused_weight_gradient(fixed=True),
    "fused, as upstream": lambda: fused_weight_gradient(fixed=False),
    "cached weight": cached_weight,
    "cached weight, emptied": lambda: cached_weight(copies=False),
    "changed weight": changed_weight,
    "signs": fixed_signs,
    "usage": usage,
    "derived": derived,
    "requantising": requantising,
    "roles": roles,
    "refused": refused,
}


def main() -> None:
    package = te_stub.sources()
    assert package is not None
    warnings.filterwarnings("ignore")
    te_stub.install(package)
    found = {name: scenario() for name, scenario in SCENARIOS.items()}
    print(json.dumps({"version": te_stub.version(package), **found}))


if __name__ == "__main__":
    main()
