"""The cells of `study replay`, `forward` and `fork`: what a recipe quantises, and which of its operands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.config import recipe_text
from harness.contract.config import Config, GemmFormat, Recipe
from harness.contract.replay_rows import Gemms, Quantised, ReplayCell
from harness.study import grid

_BF16, _FP8 = GemmFormat(format="bf16"), GemmFormat(format="fp8")
_FOUR = GemmFormat(format="mxfp4")
_RECIPES: Mapping[str, GemmFormat] = {
    "none": _FOUR,
    "h16": replace(_FOUR, hadamard=16),
    "h32": replace(_FOUR, hadamard=32),
    "rh16": replace(_FOUR, hadamard=16, signs="step"),
    "sr": replace(_FOUR, stochastic="all", prescale=0.75),
    "sr-gradients": replace(_FOUR, stochastic="gradients", prescale=0.75),
    "nvfp4": GemmFormat(format="nvfp4"),
    "fp8": _FP8,
}
DRAW, _DRAWS = "-draw-", 4  # of fixed signs
_OF_WGRAD = {
    "none": (Quantised.BOTH, Quantised.DY, Quantised.X),
    "h16": (Quantised.BOTH, Quantised.X),
}  # one by one, to find which matters
_OF_ALL = {"none": tuple(Quantised), "h16": tuple(Quantised)}
_QUANTISED = {
    Quantised.BOTH: "both operands",
    Quantised.X: "only X",
    Quantised.DY: "only dY",
    Quantised.W: "only W",
}
_ALTO = Recipe(  # AMD-AGI/ALTO, tech_report: 32x32 blocks of W, dY rounded by chance, random signs in Wgrad
    fprop=replace(_FOUR, weight_rows=32),
    dgrad=replace(_FOUR, weight_rows=32, stochastic="gradients", prescale=0.75),
    wgrad=replace(_FOUR, hadamard=32, signs="step", stochastic="gradients", prescale=0.75),
)
_FOUR_SIX = replace(_RECIPES["nvfp4"], scale_rule="four-six")
_FOUR_SIX_RH16 = replace(_FOUR_SIX, hadamard=16, signs="step")
_FOUR_SIX_MEAN = replace(_FOUR_SIX_RH16, mean_split=True)
_MS_EDEN = replace(
    _RECIPES["nvfp4"], hadamard=128, signs="step", stochastic="all", rounding="ms-eden"
)  # Quartet II, arXiv 2601.22813: its backward pass
_RH32 = replace(_FOUR, hadamard=32, signs="step")
_MEAN, _MEAN_H16 = replace(_FOUR, mean_split=True), replace(_RECIPES["h16"], mean_split=True)
CANDIDATES = {  # beside the recipes of benchmark.yaml
    "alto-prescaled": _ALTO,
    "mean-mxfp4": Recipe(fprop=_MEAN, dgrad=_FOUR, wgrad=_MEAN),
    "mean-h16": Recipe(fprop=_MEAN_H16, dgrad=_RECIPES["h16"], wgrad=_MEAN_H16),
    "rh32": Recipe(fprop=_RH32, dgrad=_RH32, wgrad=_RH32),
    "four-six": Recipe(fprop=_FOUR_SIX, dgrad=_FOUR_SIX, wgrad=_FOUR_SIX),
    "four-six-rh16": Recipe(fprop=_FOUR_SIX_RH16, dgrad=_FOUR_SIX_RH16, wgrad=_FOUR_SIX_RH16),
    "four-six-mean-rh16": Recipe(fprop=_FOUR_SIX_MEAN, dgrad=_FOUR_SIX_RH16, wgrad=_FOUR_SIX_MEAN),
    "four-six-ms-eden": Recipe(fprop=_FOUR_SIX, dgrad=_MS_EDEN, wgrad=_MS_EDEN),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell and its description."""

    row: ReplayCell
    recipe: Recipe
    text: str


def cells() -> list[Cell]:
    """Return the cells that are replayed by default: those that only quantise Wgrad, then those of all GEMMs."""
    found = []
    for name, four in _RECIPES.items():
        only = Recipe(fprop=_BF16, dgrad=_BF16, wgrad=four)
        for operand in _OF_WGRAD.get(name, (Quantised.BOTH,)):
            row = ReplayCell(name=f"w-{name}{_suffix(operand)}", arm=f"w-{name}", operand=operand)
            text = f"Wgrad, {_QUANTISED[operand]}: {_words(four)}"
            found.append(Cell(row=row, recipe=only, text=text))
    whole = (_whole(name, four, Quantised.BOTH) for name, four in _RECIPES.items())
    return [*found, *whole]


def parts() -> Iterator[Cell]:
    """Yield the cells that show which GEMM and which operand an error comes from, and what a draw of signs does."""
    fixed = replace(_FOUR, hadamard=16, signs="fixed")
    for draw in range(1, _DRAWS + 1):
        row = ReplayCell(name=f"w-fixed-h16{DRAW}{draw}", arm="w-fixed-h16", draw=draw)
        recipe = Recipe(fprop=_BF16, dgrad=_BF16, wgrad=fixed)
        yield Cell(row=row, recipe=recipe, text=f"Wgrad, both operands: {_words(fixed)}, draw {draw}")
    for name, operands in _OF_ALL.items():
        four = _RECIPES[name]
        one_gemm = {
            "fprop": Recipe(fprop=four, dgrad=_BF16, wgrad=_BF16),
            "dgrad": Recipe(fprop=_BF16, dgrad=four, wgrad=_BF16),
        }
        for gemm, recipe in one_gemm.items():
            row = ReplayCell(name=f"{gemm}-{name}", arm=f"{gemm}-{name}", gemms=Gemms.ALL)
            text = f"{gemm.capitalize()}, both operands: {_words(four)}"
            yield Cell(row=row, recipe=recipe, text=text)
        yield from (_whole(name, four, one) for one in operands if one is not Quantised.BOTH)


def _whole(name: str, four: GemmFormat, operand: Quantised) -> Cell:
    row = ReplayCell(
        name=f"fdw-{name}{_suffix(operand)}", arm=f"fdw-{name}", gemms=Gemms.ALL, operand=operand
    )
    beside = "" if operand is Quantised.BOTH else f", {_QUANTISED[operand]}"
    text = f"Fprop, Dgrad, Wgrad{beside}: {_words(four)}"
    return Cell(row=row, recipe=Recipe(fprop=four, dgrad=four, wgrad=four), text=text)


def recipes(config: Config) -> Iterator[Cell]:
    """Yield a cell for every recipe of the configuration, and for candidates that it lacks."""
    for name, recipe in {**CANDIDATES, **config.recipes}.items():
        yield _of_recipe(name, recipe)


def of_grid(name: str, config: Config) -> list[Cell]:
    """Return the cells of a study's grid, under the names that its losses have.

    Raises:
        UsageError: neither a grid nor a file has this name.
    """
    return [_of_recipe(cell.name, cell.recipe) for cell in grid.cells_of(name, config)]


def _of_recipe(name: str, recipe: Recipe) -> Cell:
    row = ReplayCell(name=name, arm=name, gemms=Gemms.ALL)
    return Cell(row=row, recipe=recipe, text=recipe_text.brief(recipe))


def chosen(names: Sequence[str] | None, grid_name: str | None, config: Config) -> list[Cell]:
    """Return the cells of a grid and those that are named; with neither, the usual ones.

    Raises:
        UsageError: no such grid or cell.
    """
    known = {one.row.name: one for one in (*recipes(config), *cells(), *parts())}
    for name in names or ():
        if name not in known:
            raise UsageError(f"--cells: {unknown_name('cell', name, known)}")
    found = {one.row.name: one for one in of_grid(grid_name, config)} if grid_name else {}
    named = {name: known[name] for name in names or ()}
    return [*{**found, **named}.values()] or cells()


def text_of(row: ReplayCell, config: Config) -> str:
    """Return the description of a cell that was replayed with this configuration."""
    known = {one.row: one.text for one in (*cells(), *parts())}
    return known.get(row) or recipe_text.brief(config.recipes[config.arms[row.arm].recipe])


def _suffix(operand: Quantised) -> str:
    return "" if operand is Quantised.BOTH else f"-{operand.value}"


def _words(four: GemmFormat) -> str:
    parts = [four.format.upper()]
    if four.hadamard:
        signs = {"none": "", "step": "random-sign ", "fixed": "fixed-sign "}[four.signs]
        parts.append(f"{signs}H{four.hadamard}")
    if four.stochastic != "none":
        rounded = "both operands" if four.stochastic == "all" else "gradients"
        parts.append(f"stochastic rounding of {rounded}")
    return ", ".join(parts)
