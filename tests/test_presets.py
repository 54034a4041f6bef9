"""The recipes of papers: as code for users of kernels, as data for the harness, and equal."""

from __future__ import annotations

import pytest

from harness.config.file import resolve
from kernels import presets
from submission.phases import phases_of

NAMES = sorted(set(presets.PRESETS) & set(resolve("proxy").config.recipes))


def test_every_preset_is_a_recipe_of_benchmark_yaml():
    assert set(presets.PRESETS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["proxy", "llama31_8b"])
def test_a_preset_is_the_recipe_that_the_harness_trains(profile, name):
    overrides = [f"arms.mxfp4.recipe={name}"]
    (phase,) = phases_of(resolve(profile, overrides=overrides).config, "mxfp4")
    assert phase.recipe == presets.PRESETS[name].recipe
    layers, share = len(phase.exempt), presets.PRESETS[name].bf16_last
    assert layers == (0 if not share else 1 if profile == "proxy" else round(share * 32))


def test_a_preset_that_does_not_exist_is_answered_with_the_closest():
    with pytest.raises(
        ValueError, match="no preset 'nvidia-fp4' \\(did you mean nvidia-nvfp4\\?\\); presets: amd-te"
    ):
        presets.recipe("nvidia-fp4")
    assert presets.recipe("tseng") is presets.PRESETS["tseng"].recipe
