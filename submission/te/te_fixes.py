"""Corrects an error of Transformer Engine's experimental CustomRecipe by replacing one of its functions."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

_NAMES = ("custom_gemm", "experimental_gemm")  # 2.10 and later; 2.9


def install() -> None:
    """Make custom_gemm honour `out` and `accumulate`; a second call does nothing.

    Transformer Engine passes `out` and `accumulate` to custom_gemm, which ignores both (2.9 to 2.20). So with
    gradient_accumulation_fusion every weight gradient is lost: main_grad stays zero but is marked as complete.
    """
    module: Any = importlib.import_module("transformer_engine.pytorch.cpp_extensions.gemm")
    for name in _NAMES:
        original = getattr(module, name, None)
        if original is not None and not hasattr(original, "honours_out"):
            setattr(module, name, _honouring_out(original))


def _honouring_out(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def custom_gemm(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        out, accumulate = bound.arguments.pop("out", None), bound.arguments.pop("accumulate", False)
        product, *rest = original(*bound.args, **bound.kwargs)
        return (product if out is None else _into(out, product, accumulate), *rest)

    custom_gemm.honours_out = True  # type: ignore[attr-defined]
    return custom_gemm


def _into(out: Any, product: Any, accumulate: bool) -> Any:
    product = product.view(out.shape)
    return out.add_(product) if accumulate else out.copy_(product)
