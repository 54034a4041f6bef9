"""Recipes of published papers and libraries by name, each with its source and what the source says of each GEMM.

A preset is listed only if this package has all of its parts; README.md names the ones that are left out and why.
benchmark.yaml holds the same recipes for the harness; a test holds them equal.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kernels.recipe import Format, GemmRecipe, LinearRecipe, ScaleRule, Signs, Stochastic

_MXFP4, _NVFP4, _BF16 = (GemmRecipe(form) for form in (Format.MXFP4, Format.NVFP4, Format.BF16))
_AMD = replace(_MXFP4, hadamard=16)
_SQUARE = replace(_MXFP4, weight_rows=32)
_SQUARE_16 = replace(_NVFP4, weight_rows=16)
_TSENG = replace(
    _MXFP4,
    scale_rule=ScaleRule.FLOOR,
    hadamard=64,
    signs=Signs.STEP,
    stochastic=Stochastic.ALL,
    prescale=0.75,
)


def _with_chance(recipe: GemmRecipe) -> GemmRecipe:
    return replace(recipe, stochastic=Stochastic.GRADIENTS)


AMD_TE = LinearRecipe("amd-te", _AMD, _AMD, _AMD)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published recipe.

    Args:
        source: where it is defined, and how that was read.
        says: the GEMMs that the source means, and where this recipe differs from it.
        bf16_last: share of the transformer layers, at the end, whose linears the source leaves in BF16. The caller
            leaves them out: `nn.quantize_linears(.., skip=..)`, or bf16_last_layers in benchmark.yaml.
    """

    recipe: LinearRecipe
    source: str
    says: str
    bf16_last: float = 0.0


PRESETS: Mapping[str, Preset] = {
    preset.recipe.name: preset
    for preset in (
        Preset(
            recipe=AMD_TE,
            source="AMD's submission to MLPerf Training v6.0 with ROCm Transformer Engine; its logs and code",
            says="all three GEMMs: both operands in blocks of 1x32, scale rule even, H16 without signs, nearest",
        ),
        Preset(
            recipe=LinearRecipe("primus-turbo", _SQUARE, _SQUARE, _AMD),
            source="AMD Primus-Turbo, its code",
            says="fprop, dgrad: weights in blocks of 32x32; wgrad: H16 on both operands; nearest",
        ),
        Preset(
            recipe=LinearRecipe(
                "alto",
                _SQUARE,
                _with_chance(_SQUARE),
                _with_chance(replace(_MXFP4, hadamard=32, signs=Signs.STEP)),
            ),
            source="AMD-AGI/ALTO: tech_report/report.md, lpt_recipe_deosc.yaml, mxfp_linear.py",
            says="fprop, dgrad: weights in blocks of 32x32; dgrad, wgrad: dY rounded stochastically; wgrad: H32 with "
            "random signs on both operands, drawn for every step (ALTO: for every forward pass, and the order of its "
            "points too, which moves values only within a block). De-oscillation is the optimizer's: nn.deoscillate "
            "with steps=200, ratio=4, start=2000 (800 at batch size 64)",
        ),
        Preset(
            recipe=LinearRecipe(
                "nvidia-nvfp4",
                _SQUARE_16,
                _with_chance(_SQUARE_16),
                _with_chance(replace(_NVFP4, hadamard=16, signs=Signs.FIXED)),
            ),
            source="arXiv 2509.25149 (abstract); NVFP4BlockScaling of Transformer Engine (code)",
            says="fprop, dgrad: weights in blocks of 16x16; dgrad, wgrad: dY rounded stochastically; wgrad: H16 with "
            "one sign vector on both operands. Transformer Engine has that vector in its code; here the seed draws it",
            bf16_last=0.18,  # arXiv 2606.15007, as other texts quote it
        ),
        Preset(
            recipe=LinearRecipe("nv-mlperf-8b", _SQUARE_16, _with_chance(_SQUARE_16), _with_chance(_NVFP4)),
            source="NVIDIA's NVFP4 submissions of Llama 3.1 8B to MLPerf Training; their logs",
            says="as nvidia-nvfp4 without a transform and without layers in BF16",
        ),
        Preset(
            recipe=LinearRecipe("tseng", _BF16, _TSENG, _TSENG),
            source="arXiv 2502.20586 (Tseng, Yu, Park)",
            says="fprop: BF16; dgrad, wgrad: H64 with random signs, stochastic rounding of 3/4 of the values, floor: "
            "unbiased gradients",
        ),
        Preset(
            recipe=LinearRecipe(
                "mean-split",
                replace(_NVFP4, mean_split=True),
                _NVFP4,
                replace(_NVFP4, mean_split=True),
            ),
            source="the identity of kernels/mean_split.py; arXiv 2603.10444 (Averis) was read in its abstract only",
            says="fprop, wgrad: X's mean over tokens in high precision, the rest in NVFP4; dgrad: NVFP4; nearest",
        ),
    )
}


def recipe(name: str) -> LinearRecipe:
    """The recipe of a preset.

    Raises:
        ValueError: no such preset; the message names the closest one and lists all.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, 1)
        guess = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"no preset '{name}'{guess}; presets: {', '.join(PRESETS)}")
    return PRESETS[name].recipe
