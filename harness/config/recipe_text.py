"""A recipe as one line of text: the formats of its GEMMs, and the options that differ from the defaults."""

from __future__ import annotations

import dataclasses

from harness.contract.config import GemmFormat, Recipe

_GEMMS = ("fprop", "dgrad", "wgrad")


def describe(recipe: Recipe) -> str:
    """`fprop: mxfp4 hadamard=16; dgrad: ..; bf16_first_layers=1`."""
    parts = []
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, GemmFormat):
            parts.append(f"{field.name}: {_gemm(value)}")
        elif value != field.default:
            parts.append(f"{field.name}={value}")
    return "; ".join(parts)


def brief(recipe: Recipe) -> str:
    """The same, where GEMMs that are alike are written once: `all GEMMs mxfp4 hadamard=16`."""
    alike: dict[str, list[str]] = {}
    for name in _GEMMS:
        alike.setdefault(_gemm(getattr(recipe, name)), []).append(name)
    gemms = [
        f"{'all GEMMs' if len(names) == len(_GEMMS) else ' and '.join(names)} {text}"
        for text, names in alike.items()
    ]
    others = [part for part in describe(recipe).split("; ") if not part.startswith(_GEMMS)]
    return "; ".join([*gemms, *others])


def _gemm(gemm: GemmFormat) -> str:
    """The format, and the options that differ from its defaults."""
    values = [(field, getattr(gemm, field.name)) for field in dataclasses.fields(gemm)]
    options = [
        f"{field.name}={value}"
        for field, value in values
        if field.name != "format" and value != field.default
    ]
    return " ".join([gemm.format, *options])
