"""The page of `study replay`: systematic and random error of every recipe, and where in the model it arises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from harness.report.canvas import INK, PALETTE, canvas, legend, plain_numbers, svg
from harness.study import gap_prediction, measured_page, replay, replay_history
from harness.study.gap_prediction import Prediction
from harness.study.gradient_error import Estimate
from harness.study.measured_page import Figure, Point, forest
from harness.study.replay import CellResult
from harness.study.replay_history import History

_UNCERTAIN = 3  # fewer trainings say little about others
_T95 = 1.96
_FLOOR = 1e-3  # percent: a systematic error that is not told apart from zero may lie below it


def write(
    out: Path, results: Sequence[CellResult], tested: Prediction | None = None, history: History | None = None
) -> Path:  # fmt: skip
    """Write the page into `out`.

    Args:
        history: of this replay and others.
    """
    shown = [one for one in results if one.is_clear]
    wgrad = [one for one in shown if one.loss_gap is None]
    whole = [one for one in shown if one.loss_gap is not None]  # their scales differ by ten
    drawn = (
        _against_random(shown),
        _systematic(wgrad, "Systematic error, only Wgrad quantised", "wgrad"),
        _systematic(whole, "Systematic error, all GEMMs quantised", "whole"),
        _in_adams_units(results),
        _forward(results),
        _layers(wgrad),
        _alignment(shown),
        *(replay_history.figures(history) if history else ()),
        *(_predicted(tested) if tested else ()),
    )
    lines = [*list(replay.table(results))[1:], *replay.shared(results)]
    if tested:
        lines += [*gap_prediction.lines(tested), gap_prediction.conclusion(tested)]
    if history:
        lines += replay_history.lines(history)
    return measured_page.write(
        out / replay.PAGE,
        lead="what recipes do to the weight gradient, at fixed weights",
        headline=replay.conclusion(results),
        warning=_warning(results),
        figures=[figure for figure in drawn if figure],
        cells=[(one.cell, one.text) for one in results],
        lines=lines,
    )


def _warning(results: Sequence[CellResult]) -> str:
    seeds = max((len(one.seeds) for one in results), default=0)
    clear = max((one.clear for one in results), default=0)
    if clear >= _UNCERTAIN:
        return ""
    trainings = "training seed" if seeds == 1 else "training seeds"
    text = f"The mean gradient is clear at {clear} of {seeds} {trainings}."
    return f"{text} Other trainings may differ: take three seeds or more, and more micro batches."


def _systematic(results: Sequence[CellResult], title: str, name: str) -> Figure | None:
    return forest(
        [_point(one.cell, one.across, 100) for one in results],
        title=title,
        x_label="% of the mean gradient's energy",
        caption="Across the mean gradient. Blue: zero lies outside the interval. Lines: 95 % of the measurement.",
        name=f"systematic-{name}",
    )


def _in_adams_units(results: Sequence[CellResult]) -> Figure | None:
    return forest(
        [_point(one.cell, one.adam_across, 100) for one in results if one.adam_across],
        title="Systematic error in AdamW's units",
        x_label="% of the mean gradient's energy",
        caption="Every element is divided by sqrt(v) + eps, as AdamW's update divides it.",
        name="adam",
    )


def _forward(results: Sequence[CellResult]) -> Figure | None:
    return forest(
        [_point(one.cell, one.loss_gap, 1e3) for one in results if one.loss_gap],
        title="Loss of the recipe's forward pass",
        x_label="mnat per token above the exact pass, same weights",
        caption="Lines: 95 % over micro batches.",
        name="forward",
    )


def _point(name: str, one: Estimate, unit: float) -> Point:
    half = _T95 * one.se
    return Point(
        name=name, value=unit * one.value, low=unit * (one.value - half), high=unit * (one.value + half)
    )


def _against_random(results: Sequence[CellResult]) -> Figure | None:
    """Draw both errors of every cell in one row, on a logarithmic axis."""
    if not results:
        return None
    title = "Systematic against random error"
    with canvas(title, "% of the mean gradient's energy", height=1.4 + 0.28 * len(results)) as axes:
        for row, one in enumerate(results):
            random = 100 * fmean(part.random for part in one.seeds if part.is_clear)
            systematic = max(100 * one.across.value, _FLOOR)
            axes.plot([systematic, random], [-row, -row], color=INK, lw=0.8, alpha=0.4)
            for value, place, label in (
                (systematic, 0, "systematic"),
                (random, 1, "random, of one micro batch"),
            ):
                axes.plot([value], [-row], "o", color=PALETTE[place], ms=5, label=None if row else label)
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_yticks([-row for row in range(len(results))], [one.cell for one in results])
        axes.grid(axis="y", visible=False)
        legend(axes)
        drawn = svg(axes, f"{title} of the weight gradient by cell", "random")
    caption = "A larger batch divides the random error; the systematic one stays. Values below 0.001 % are drawn there."
    return drawn, caption


def _layers(results: Sequence[CellResult]) -> Figure | None:
    shown = [one for one in results if any(one.layers.values())][: len(PALETTE)]
    if not shown:
        return None
    labels = list(shown[0].layers)
    with canvas("Systematic error by linear", "", "% of its energy", height=4.4) as axes:
        for one, colour in zip(shown, PALETTE, strict=False):
            places = [place for place, label in enumerate(labels) if one.layers[label]]
            values = [100 * found.value for label in labels if (found := one.layers[label])]
            axes.plot(places, values, "o-", color=colour, ms=4, lw=1, label=one.cell)
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], rotation=90, fontsize=7)
        axes.axhline(0, color=INK, lw=0.8)
        axes.legend(fontsize=8)
        drawn = svg(axes, "Systematic error by linear and cell", "layers")
    return drawn, "Only linears whose mean gradient is clear. The first six cells."


def _alignment(results: Sequence[CellResult]) -> Figure | None:
    shown = [(one.cell, one.shared.alignment) for one in results if one.shared.alignment is not None]
    if not shown:
        return None
    gradients = results[0].shared.of_gradients
    title, label = "Do errors of different linears go together?", "centred kernel alignment, mean over pairs"
    with canvas(title, label, height=1.4 + 0.28 * len(shown)) as axes:
        for row, (_, value) in enumerate(shown):
            axes.barh(-row, value, height=0.6, color=PALETTE[2])
        if gradients is not None:
            axes.axvline(gradients, color=INK, lw=1.2, ls="--")
        axes.set_yticks([-row for row in range(len(shown))], [cell for cell, _ in shown])
        axes.grid(axis="y", visible=False)
        text = "; ".join(f"{cell} {value:.2f}" for cell, value in shown)
        drawn = svg(axes, f"{title} {text}", "alignment")
    caption = "Over micro batches: 0 independent, 1 alike. Dashed: the exact gradients."
    return drawn, caption


def _predicted(tested: Prediction) -> Iterator[Figure]:
    """Draw the loss gap over the two quantities that the claim and the forward pass name."""
    for place, name in enumerate(("systematic error", "forward loss")):
        one = next(one for one in tested.predictors if one.name == name)
        unit, scale = ("mnat", 1e3) if name == "forward loss" else ("% of the mean gradient's energy", 100)
        with canvas(f"Loss gap over {name}", f"{name}, {unit}", "loss gap to FP8, nats") as axes:
            for place_of, point in enumerate(sorted(tested.points, key=lambda one: one.gap)):
                x = scale * point.values[name]
                axes.errorbar(x, point.gap, yerr=_T95 * point.se, fmt="o", color=PALETTE[0], ms=4, lw=1)
                left = place_of % 2 == 1  # to both sides in turn: neighbours would cover each other's names
                axes.annotate(
                    point.cell, (x, point.gap), fontsize=7, textcoords="offset points",
                    xytext=(-4 if left else 4, 3), ha="right" if left else "left",
                )  # fmt: skip
            axes.axhline(0, color=INK, lw=0.8)
            drawn = svg(axes, f"Loss gap of every cell over its {name}; R^2 {one.r2:.2f}", f"gap-{place}")
        r2 = f"R^2 {one.r2:+.2f}, without stochastic rounding {one.r2_nearest:+.2f}"
        yield drawn, f"Both less FP8's. Leaving out one cell at a time: {r2}."


def _short(label: str) -> str:
    """`layers.0.mlp.linear_fc1` as `0 fc1`."""
    parts = label.split(".")
    return f"{parts[1]} {parts[-1].removeprefix('linear_')}"
