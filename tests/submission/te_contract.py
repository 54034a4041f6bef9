"""Runs in a process of its own: Transformer Engine's Linear over our quantizer. Prints one JSON document of findings.

python -m tests.submission.te_contract
"""

from __future__ import annotations

import importlib
import json
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.submission import te_quantizers, te_stub
from tests.submission.te_quantizers import mx_recipe

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


def with_norm() -> dict[str, float]:
    """Megatron's stock specification joins norm and linear into one module; against torch's norm and our linear."""
    import transformer_engine.pytorch as te

    from kernels import nn
    from submission.te_quantizer import mxfp4

    x, dy, w = inputs()
    options = {"normalization": "RMSNorm", "bias": False, "params_dtype": torch.bfloat16, "device": "cpu"}
    with te_stub.OnGpu():
        theirs = te.LayerNormLinear(K, N, **options)
    ours = nn.Linear(K, N, bias=False, dtype=torch.bfloat16)
    norm = torch.nn.RMSNorm(K, eps=theirs.eps, dtype=torch.bfloat16)
    for weight in (theirs.weight, ours.weight):
        weight.data.copy_(w)
    a, b = leaf(x), leaf(x)
    y, z = forward(theirs, a, mxfp4), ours(norm(b))
    backward(y, dy)
    z.backward(dy)
    found = (y, a.grad, theirs.weight.grad, theirs.layer_norm_weight.grad)
    wanted = (z, b.grad, ours.weight.grad, norm.weight.grad)
    names = ("y", "dx", "dw", "gain")
    return {name: error(*pair) for name, pair in zip(names, zip(found, wanted, strict=True), strict=True)}


def fused_weight_gradient(*, fixed: bool) -> dict[str, Any]:
    """main_grad after two micro batches, relative to twice the weight gradient."""
    from kernels.nn import AMD_TE
    from submission.te_quantizer import mxfp4

    gemm = importlib.import_module("transformer_engine.pytorch.cpp_extensions.gemm")
    name = "custom_gemm" if hasattr(gemm, "custom_gemm") else "experimental_gemm"
    mxfp4("linear_input")  # puts upstream's function right
    repaired = getattr(gemm, name)
    if not fixed:
        setattr(gemm, name, getattr(repaired, "__wrapped__", repaired))
    factory = mxfp4 if fixed else _unfixed
    x, dy, w = inputs()
    layer = linear(w, fuse_wgrad_accumulation=True)
    layer.weight.main_grad = torch.zeros(N, K)
    layer.weight.grad_added_to_main_grad = False
    for _ in range(2):
        backward(forward(layer, leaf(x), factory), dy)
    setattr(gemm, name, repaired)
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


def fixed_signs() -> dict[str, float]:
    """y, dx and dw against the products of what was not quantised."""
    from kernels.recipe import Signs
    from submission.te_quantizer import quantizer_for, randomness

    (x, dy, w), recipe, draws = inputs(), mx_recipe("fixed", hadamard=32, signs=Signs.FIXED), randomness(7)
    layer, xi = linear(w), leaf(x)
    y = forward(layer, xi, lambda role: quantizer_for(role, recipe, draws))
    backward(y, dy)
    found, exact = (y, xi.grad, layer.weight.grad), (x @ w.t(), dy @ w, dy.t() @ x)
    return {
        name: error(*pair)
        for name, pair in zip(("y", "dx", "dw"), zip(found, exact, strict=True), strict=True)
    }


SCENARIOS: dict[str, Callable[[], Any]] = {
    "three products": three_products,
    "same bits": same_bits_as_ours,
    "with norm": with_norm,
    "fused, fixed": lambda: fused_weight_gradient(fixed=True),
    "fused, as upstream": lambda: fused_weight_gradient(fixed=False),
    "cached weight": cached_weight,
    "cached weight, emptied": lambda: cached_weight(copies=False),
    "changed weight": changed_weight,
    "signs": fixed_signs,
    **te_quantizers.SCENARIOS,
}


def main() -> None:
    package = te_stub.sources()
    assert package is not None
    warnings.filterwarnings("ignore")
    te_stub.install(package)
    found = {name: _result(scenario) for name, scenario in SCENARIOS.items()}
    print(json.dumps({"version": te_stub.version(package), **found}))


def _result(scenario: Callable[[], Any]) -> Any:
    """One scenario's failure is one test's failure."""
    try:
        return scenario()
    except Exception:
        return {"failure": traceback.format_exc()}


if __name__ == "__main__":
    main()
