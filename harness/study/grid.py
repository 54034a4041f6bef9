"""Cells of a study: a name, and the recipe that trains under this name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.config.file import sentence
from harness.contract.build import ConfigProblem, build
from harness.contract.config import Arm, Config, GemmFormat, Recipe

BASELINE = "fp8"
_FP8, _BF16, _MXFP4 = (GemmFormat(format="fp8"), GemmFormat(format="bf16"), GemmFormat(format="mxfp4"))
_H16, _H32 = dataclasses.replace(_MXFP4, hadamard=16), dataclasses.replace(_MXFP4, hadamard=32)
_STOCHASTIC: tuple[Literal["none", "gradients"], ...] = ("none", "gradients")
_HADAMARD: tuple[Literal[0, 16, 32], ...] = (0, 16, 32)
_SCOPES = {"F": ("fprop",), "FD": ("fprop", "dgrad"), "FDW": ("fprop", "dgrad", "wgrad")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One recipe of a study.

    Args:
        stabiliser: row of the paper's table: none | stochastic | random hadamard | hadamard | "" (a reference).
        scope: which GEMMs are MXFP4: F, FD or FDW; the others are FP8.
        claimed: extra tokens that the paper reports, in percent; None where it reports none or no convergence.
    """

    name: str
    recipe: Recipe
    stabiliser: str = ""
    scope: str = ""
    claimed: tuple[float, float] | None = None
    claimed_to_fail: bool = False


def mxfp4(scope: str, four: GemmFormat = _MXFP4) -> Recipe:
    """MXFP4 with the options of `four` in the GEMMs of a scope, FP8 in the others."""
    fprop, dgrad, wgrad = (four if gemm in _SCOPES[scope] else _FP8 for gemm in ("fprop", "dgrad", "wgrad"))
    return Recipe(fprop=fprop, dgrad=dgrad, wgrad=wgrad)


def paper() -> list[Cell]:
    """The table of arXiv 2605.09825 as readers report it: eleven recipes, and FP8 and BF16 as references."""
    claims = {"F": (8.0, 9.0), "FD": (10.0, 11.0), "FDW": (26.0, 27.0)}
    rows = {
        "none": ("none", _MXFP4),
        "sr": ("stochastic", dataclasses.replace(_MXFP4, stochastic="all")),
        "rh16": ("random hadamard", dataclasses.replace(_MXFP4, hadamard=16, signs="step")),
    }
    cells = [
        Cell(
            name=f"{short}-{scope.lower()}",
            recipe=mxfp4(scope, four),
            stabiliser=stabiliser,
            scope=scope,
            claimed=None if scope == "FDW" and short != "none" else claims[scope],
            claimed_to_fail=scope == "FDW" and short != "none",
        )
        for short, (stabiliser, four) in rows.items()
        for scope in _SCOPES
    ]
    for four in (_H32, _H16):
        name, recipe, claimed = f"h{four.hadamard}-fdw", mxfp4("FDW", four), (8.0, 9.0)
        cells.append(Cell(name=name, recipe=recipe, stabiliser="hadamard", scope="FDW", claimed=claimed))
    references = [Cell(name="bf16", recipe=Recipe(fprop=_BF16, dgrad=_BF16, wgrad=_BF16))]
    return [*cells, *references, baseline()]


# the paper's claims, pair by pair; docs/study.md takes them as the test of agreement
CONTRASTS = (
    ("none-fdw", "none-f"),
    ("h16-fdw", "none-fdw"),
    ("h32-fdw", "none-fdw"),
    ("h16-fdw", "none-f"),
    ("h32-fdw", "h16-fdw"),
    ("none-fd", "none-f"),
)


def contrasts(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """The pairs that a study compares: the paper's claims, and a late switch with the same recipe without it."""
    pairs = [
        (late.name, cell.name)
        for late in cells
        for cell in cells
        if late.recipe.switch_to
        and cell.recipe == dataclasses.replace(late.recipe, switch_step=0, switch_to="")
    ]
    return [*CONTRASTS, *pairs]


def factorial() -> list[Cell]:
    """Scale rule x rounding x transform in all three GEMMs, and candidates for a better recipe."""
    scaled = [dataclasses.replace(_MXFP4, scale_rule="even"), dataclasses.replace(_MXFP4, scale_rule="rceil")]
    fours = [
        dataclasses.replace(four, stochastic=stochastic, hadamard=hadamard)
        for four in scaled
        for stochastic in _STOCHASTIC
        for hadamard in _HADAMARD
    ]
    cells = [Cell(name=_factors(four), recipe=mxfp4("FDW", four), scope="FDW") for four in fours]
    square = mxfp4("FDW", dataclasses.replace(_H16, weight_rows=32))
    gained = mxfp4("FDW", dataclasses.replace(_H16, gain=1.02))
    only_wgrad = dataclasses.replace(mxfp4("FDW"), wgrad=_H16)
    cells += [
        Cell(name="h16-square-weights", recipe=square, scope="FDW"),
        Cell(name="h16-gain", recipe=gained, scope="FDW"),
        Cell(name="h16-wgrad-only", recipe=only_wgrad, scope="FDW"),
    ]
    return [*cells, baseline()]


def _factors(four: GemmFormat) -> str:
    rounding = "sr" if four.stochastic != "none" else "rne"
    return f"{four.scale_rule}-{rounding}-h{four.hadamard}"


def baseline() -> Cell:
    return Cell(name=BASELINE, recipe=Recipe(fprop=_FP8, dgrad=_FP8, wgrad=_FP8))


def from_file(path: Path) -> list[Cell]:
    """Cells from YAML: {name: {fprop: {format: ..}, dgrad: .., wgrad: ..}}. fp8 is added where it is missing.

    Raises:
        UsageError: no such file, or an impossible recipe.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not a YAML file of cells ({error})") from None
    if not isinstance(document, Mapping) or not document:
        raise UsageError(
            f"{path}: found {type(document).__name__}; allowed: names of cells with their recipes"
        )
    try:
        cells = [Cell(name=str(name), recipe=build(Recipe, row, str(name))) for name, row in document.items()]
    except ConfigProblem as problem:
        raise UsageError(f"{path}: {sentence(problem)}") from None
    return cells if BASELINE in document else [*cells, baseline()]


def presets(config: Config) -> list[Cell]:
    """The recipes of benchmark.yaml."""
    return [*(Cell(name=name, recipe=recipe) for name, recipe in config.recipes.items()), baseline()]


GRIDS = {"paper": paper, "factorial": factorial}
NAMES = (*GRIDS, "presets")


def cells_of(grid: str, config: Config) -> list[Cell]:
    """The cells of a named grid, or of a file.

    Raises:
        UsageError: neither a grid nor a file has this name.
    """
    if grid == "presets":
        return presets(config)
    if grid in GRIDS:
        return GRIDS[grid]()
    if not Path(grid).exists():
        raise UsageError(f"--grid: {unknown_name('grid', grid, NAMES, more='a YAML file of recipes')}")
    return from_file(Path(grid))


def arms_and_recipes(cells: list[Cell]) -> tuple[dict[str, Arm], dict[str, Recipe]]:
    """The arms and recipes of the configuration; the baseline comes last."""
    return {cell.name: Arm(recipe=cell.name) for cell in cells}, {cell.name: cell.recipe for cell in cells}


def select(cells: list[Cell], names: list[str] | None) -> list[Cell]:
    """The named cells and the baseline; without names, all cells.

    Raises:
        UsageError: no cell of that name.
    """
    known = [cell.name for cell in cells]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"--cells: {unknown_name('cell', unknown[0], known)}")
    return [cell for cell in cells if not names or cell.name in names or cell.name == BASELINE]
