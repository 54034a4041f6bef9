"""Decides which recipe a linear runs at which step: some layers may stay in BF16, and a run may change its recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.contract.config import Config
from kernels.deoscillation import Settings
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, from_mapping

_PLAIN = GemmRecipe(Format.BF16)
EXEMPT = LinearRecipe("bf16 (exempt)", _PLAIN, _PLAIN, _PLAIN)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run with one recipe.

    Args:
        first_step: number of optimizer steps done when it begins.
        exempt: transformer layers, counted from 0, whose linears stay in BF16.
        deoscillation: of the quantised weights; None for none.
    """

    recipe: LinearRecipe
    first_step: int = 0
    exempt: frozenset[int] = frozenset()
    deoscillation: Settings | None = None

    def of(self, label: str) -> LinearRecipe:
        """The recipe of a linear, by its label `layers.<n>.<name>`."""
        return EXEMPT if int(label.split(".", 2)[1]) in self.exempt else self.recipe


def phases_of(config: Config, arm: str) -> tuple[Phase, ...]:
    """The phases of an arm in order: one, or two where it switches to another recipe at a step."""
    name = config.arms[arm].recipe
    settings = config.recipes[name]
    found = [_phase(config, name, 0)]
    if settings.switch_to:
        found.append(_phase(config, settings.switch_to, settings.switch_step))
    return tuple(found)


def _phase(config: Config, name: str, first_step: int) -> Phase:
    settings, layers = config.recipes[name], config.model.layers
    rows = {gemm.value: dataclasses.asdict(getattr(settings, gemm.value)) for gemm in Gemm}
    exempt = {*range(settings.bf16_first_layers), *range(layers - settings.bf16_last_layers, layers)}
    steps, start = settings.deoscillation_steps, max(settings.deoscillation_start, first_step)
    return Phase(
        recipe=from_mapping(name, rows),
        first_step=first_step,
        exempt=frozenset(exempt),
        deoscillation=Settings(steps=steps, ratio=settings.deoscillation_ratio, start=start)
        if steps
        else None,
    )
