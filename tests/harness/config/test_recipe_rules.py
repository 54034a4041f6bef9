"""The configuration refuses exactly the recipes that kernels/ would refuse when a run starts."""

from __future__ import annotations

import itertools
from typing import get_args, get_type_hints

from harness.config import recipes_rules
from harness.contract.build import ConfigProblem
from harness.contract.config import GemmFormat
from kernels.recipe import from_mapping

CHOICES = get_type_hints(GemmFormat)


def refusals(settings):
    refused = []
    for check in (
        lambda: recipes_rules._require_scales("recipes.mine.fprop", GemmFormat(**settings)),
        lambda: from_mapping("mine", dict.fromkeys(("fprop", "dgrad", "wgrad"), settings)),
    ):
        try:
            check()
        except (ConfigProblem, ValueError):
            refused.append(True)
        else:
            refused.append(False)
    return refused


def test_scale_choices_and_roundings_are_refused_as_the_kernels_refuse_them():
    options = ("scale_rule", "tensor_scale", "rounding")
    counts = {True: 0, False: 0}
    for format, block in (("mxfp8", 32), ("mxfp4", 32), ("nvfp4", 16)):
        for chosen in itertools.product(*(get_args(CHOICES[name]) for name in options)):
            for stochastic, signs, rows, prescale in itertools.product(
                ("none", "gradients", "all"), ("none", "step"), (1, block), (1.0, 0.75)
            ):
                settings = {
                    **dict(zip(options, chosen, strict=True)), "format": format, "stochastic": stochastic,
                    "signs": signs, "hadamard": 0 if signs == "none" else 32, "weight_rows": rows,
                    "prescale": prescale,
                }  # fmt: skip
                ours, kernels = refusals(settings)
                assert ours == kernels, settings
                counts[ours] += 1
    assert counts[False] > 100 and counts[True] > 1000
