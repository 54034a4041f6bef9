"""`study replay`: measures each recipe's error of the weight gradient, at fixed weights, over many micro batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from harness.base.errors import UsageError
from harness.contract import attempt_rows, file_names, files
from harness.contract.config import Config
from harness.contract.replay_rows import GRAMS, Gemms, ReplayAsked, ReplayCell, read_asked
from harness.study import layer_alignment, replay_cells, replay_process
from harness.study.gradient_error import FEWEST, Estimate, GradientError, gradient_error
from harness.study.replay_cells import Cell
from harness.study.replay_process import Trainings

RESULTS, PAGE = "replay_results.json", "replay.html"
_SURE = 5.0  # standard errors from zero, where parts of a systematic error say something


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What linears contribute to the systematic error, and what their errors share; means over seeds.

    Args:
        parts: for each linear, its share of the whole systematic error. A share may lie below 0 where there is none.
        adam_parts: the same in AdamW's units; empty where v is not known.
        alignment: CKA between the errors of two linears (layer_alignment.py), mean over pairs; None without errors.
        of_gradients: the same of their exact gradients.
    """

    parts: Mapping[str, float]
    adam_parts: Mapping[str, float]
    alignment: float | None
    of_gradients: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """The result of one cell over all training seeds.

    Args:
        along, across: mean over the clear seeds, or over all if no seed is clear. The standard error is that of the
            measurement at these weights.
        spread: standard deviation of `across` between training seeds; None for one seed.
        layers: for each linear layer, `across` over the seeds with a clear mean gradient; None without such a seed.
        seeds: the parts of the error at each seed.
        adam_along, adam_across: the same where every element is divided by AdamW's sqrt(v) + eps, as its update divides
            it; None where v is not known, or no seed's mean gradient is clear in these units.
        adam_seeds: the parts in these units at each seed.
        loss_gap: loss of the recipe's forward pass less that of the exact one, nats per token; None unless quantised.
        shared: what the linears share.
    """

    cell: str
    text: str
    along: Estimate
    across: Estimate
    spread: float | None
    layers: Mapping[str, Estimate | None]
    seeds: Sequence[GradientError]
    adam_along: Estimate | None
    adam_across: Estimate | None
    adam_seeds: Sequence[GradientError]
    loss_gap: Estimate | None
    shared: Shared

    @property
    def clear(self) -> int:
        """Number of seeds at which the mean gradient is clear."""
        return sum(one.is_clear for one in self.seeds)

    @property
    def is_clear(self) -> bool:
        return self.clear > 0


def run(
    config: Config, cells: Sequence[Cell], trainings: Trainings, *, batches: int, outlier_factor: float, out: Path
) -> list[CellResult]:  # fmt: skip
    """Train (or load), replay, analyse; everything is written below `out`.

    Raises:
        UsageError: too few batches, and what replay_process.run raises.
        TrainingFailed: a process failed; its output is below `out`.
    """
    if batches < FEWEST:
        raise UsageError(f"--batches: found {batches}; allowed: {FEWEST} or more")
    asked = ReplayAsked(cells=(), batches=batches, outlier_factor=outlier_factor)
    replay_process.run(config, cells, asked, trainings, out)
    return analyse(out)


def analyse(out: Path) -> list[CellResult]:
    """Analyse the finished replays below a directory, and write the results there as JSON.

    Raises:
        UsageError: the directory has no matrices.
    """
    homes = sorted(path.parent for path in out.glob(f"seed_*/{GRAMS}"))
    if not homes:
        raise UsageError(f"{out}: no seed_*/{GRAMS}; choose a directory that study replay has filled")
    config = attempt_rows.read_config(homes[0] / file_names.CONFIG).config
    asked = read_asked(homes[0])
    matrices = [dict(np.load(home / GRAMS)) for home in homes]
    results = [
        _of_cell(one, place, matrices, replay_cells.text_of(one, config))
        for place, one in enumerate(asked.cells, 1)
    ]
    files.replace_json(
        out / RESULTS, {**document(results, asked, len(homes)), "kurtosis": _kurtosis(matrices)}
    )
    return results


def _of_cell(cell: ReplayCell, place: int, matrices: Sequence[Mapping[str, Any]], text: str) -> CellResult:
    labels = [key[2:] for key in matrices[0] if key.startswith("g/")]
    seeds = [_parts(found, cell.name, labels) for found in matrices]
    shown = clear_or_all(seeds)
    of_linears = {label: [_parts(found, cell.name, [label]) for found in matrices] for label in labels}
    layers = {label: _mean_across(_clear(each)) for label, each in of_linears.items()}
    adam = [_parts(found, cell.name, labels, "adam_") for found in matrices if f"adam_g/{labels[0]}" in found]
    clear = _clear(adam)
    gaps = [found["loss"][place] - found["loss"][0] for found in matrices]
    return CellResult(
        cell=cell.name,
        text=text,
        along=_mean([one.along for one in shown]),
        across=_mean([one.across for one in shown]),
        spread=stdev(one.across.value for one in shown) if len(shown) > 1 else None,
        layers=layers,
        seeds=seeds,
        adam_along=_mean([one.along for one in clear]) if clear else None,
        adam_across=_mean_across(clear),
        adam_seeds=adam,
        loss_gap=_mean([_sample(gap) for gap in gaps]) if cell.gemms is Gemms.ALL else None,
        shared=_shared(cell.name, matrices, of_linears),
    )


def _shared(
    cell: str, matrices: Sequence[Mapping[str, Any]], of_linears: Mapping[str, Sequence[GradientError]]
) -> Shared:
    with_moments = [found for found in matrices if all(f"adam_g/{label}" in found for label in of_linears)]
    in_adam = {
        label: [_parts(found, cell, [label], "adam_") for found in with_moments] for label in of_linears
    }
    errors, gradients = (
        [layer_alignment.alignment([found[f"{key}/{label}"] for label in of_linears]) for found in matrices]
        for key in (f"ee/{cell}", "g")
    )
    return Shared(
        parts=_shares(of_linears),
        adam_parts=_shares(in_adam) if with_moments else {},
        alignment=_known_mean(errors),
        of_gradients=_known_mean(gradients),
    )


def _shares(of_linears: Mapping[str, Sequence[GradientError]]) -> dict[str, float]:
    sizes = {label: fmean(one.across_absolute for one in each) for label, each in of_linears.items()}
    whole = sum(sizes.values())
    return {label: size / whole if whole else 0.0 for label, size in sizes.items()}


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _clear(parts: Sequence[GradientError]) -> list[GradientError]:
    return [one for one in parts if one.is_clear]


def clear_or_all(parts: Sequence[GradientError]) -> Sequence[GradientError]:
    """Return the parts at seeds with a clear mean gradient; without one, those of all seeds."""
    return _clear(parts) or parts


def _parts(found: Mapping[str, Any], cell: str, labels: Sequence[str], units: str = "") -> GradientError:
    """Args:
    units: "adam_" for those of AdamW.
    """
    gg = sum(found[f"{units}g/{label}"] for label in labels)
    eg = sum(found[f"{units}eg/{cell}/{label}"] for label in labels)
    ee = sum(found[f"{units}ee/{cell}/{label}"] for label in labels)
    return gradient_error(gg, eg, ee)


def _kurtosis(matrices: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return, by linear layer, the kurtosis of X, dY and W, mean over the seeds that have it; 3 is Gaussian."""
    labels = [key[2:] for key in matrices[0] if key.startswith("g/")]
    known = [found["kurtosis"] for found in matrices if "kurtosis" in found]
    rows = np.mean(known, axis=0).tolist() if known else []
    return {
        label: dict(zip(("x", "dy", "w"), row, strict=True))
        for label, row in zip(labels, rows, strict=bool(rows))
    }


def _sample(values: Any) -> Estimate:
    return Estimate(value=float(values.mean()), se=float(values.std(ddof=1) / math.sqrt(len(values))))


def _mean_across(parts: Sequence[GradientError]) -> Estimate | None:
    return _mean([one.across for one in parts]) if parts else None


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    se = math.sqrt(sum(one.se**2 for one in estimates)) / len(estimates)
    return Estimate(value=fmean(one.value for one in estimates), se=se)


def document(results: Sequence[CellResult], asked: ReplayAsked, seeds: int) -> dict[str, Any]:
    """Return the JSON of `study replay`."""
    settings = {
        "batches": asked.batches,
        "train_steps": asked.train_steps,
        "checkpoint": asked.checkpoint,
        "outlier_factor": asked.outlier_factor,
    }
    return {
        **settings,
        "seeds": seeds,
        "cells": [{**asdict(one), "clear_seeds": one.clear, "is_clear": one.is_clear} for one in results],
    }


def table(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield a line per cell: shares of the mean gradient's energy, in percent, with standard errors."""
    yield "systematic error of the weight gradient, % of the mean gradient's energy (standard error); random error, %"
    for one in results:
        if not one.is_clear:
            yield f"{one.cell:<18} the mean gradient is not clear in so few micro batches; take more"
            continue
        across, along = one.across, one.along
        random = fmean(part.random for part in _clear(one.seeds))
        seeds = "" if one.clear == len(one.seeds) else f"  {one.clear} of {len(one.seeds)} seeds clear"
        spread = "" if one.spread is None else f"  between seeds {100 * one.spread:.3f}"
        adam = (
            ""
            if one.adam_across is None
            else f"  AdamW {100 * one.adam_across.value:+.3f} ({100 * one.adam_across.se:.3f})"
        )
        gap = (
            ""
            if one.loss_gap is None
            else f"  forward {1e3 * one.loss_gap.value:+.1f} ({1e3 * one.loss_gap.se:.1f}) mnat"
        )
        yield (
            f"{one.cell:<18} across {100 * across.value:+.3f} ({100 * across.se:.3f})  along {100 * along.value:+.2f} "
            f"({100 * along.se:.2f})  random {100 * random:.1f}{spread}{adam}{gap}{seeds}"
        )
    yield from draws(results)


def draws(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield a line per transform with fixed signs: the error with its signs, averaged over draws, and its spread."""
    found: dict[str, list[Estimate]] = {}
    for one in results:
        name, separator, _ = one.cell.partition(replay_cells.DRAW)
        if separator and one.is_clear:
            found.setdefault(name, []).append(one.across)
    for name, each in found.items():
        mean = _mean(each)
        spread = f", between draws {100 * stdev(one.value for one in each):.3f}" if len(each) > 1 else ""
        yield f"{name:<18} across {100 * mean.value:+.3f} ({100 * mean.se:.3f}), mean of {len(each)} draws{spread}"


def shared(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield a line per cell: what linears share, and which layers make a clear systematic error."""
    for one in results:
        if one.is_clear and one.shared.alignment is not None:
            shown = [one.shared.parts, *([one.shared.adam_parts] if one.shared.adam_parts else [])]
            layers = "; AdamW's units ".join(_by_layer(parts) for parts in shown)
            of_layers = f"  by layer, %: {layers}" if one.across.sigmas > _SURE else ""
            yield (
                f"{one.cell:<18} alignment of errors between linears {one.shared.alignment:.2f} "
                f"(gradients {one.shared.of_gradients or 0.0:.2f}){of_layers}"
            )


def _by_layer(parts: Mapping[str, float]) -> str:
    """`layers.0.mlp.linear_fc1` is of layer 0."""
    sums: dict[int, float] = {}
    for label, part in parts.items():
        layer = int(label.split(".")[1])
        sums[layer] = sums.get(layer, 0.0) + part
    return " ".join(f"{100 * sums[layer]:.0f}" for layer in sorted(sums))


def conclusion(results: Sequence[CellResult]) -> str:
    """Compare the replay with the claim that only a deterministic transform removes systematic error."""
    found = {one.cell: one.across for one in results if one.is_clear}
    if "w-none" not in found:
        return "No conclusion: the cell w-none is missing, or its mean gradient is not clear."
    none = found["w-none"]
    left = f"{_percent(none)} of the mean gradient's energy as systematic error"
    start = f"At these weights MXFP4 Wgrad without a transform leaves {left}"
    if none.sigmas < 2:
        return f"{start}: not distinguishable from none."
    names = {
        "w-h16": "a deterministic H16",
        "w-rh16": "a random-sign H16",
        "w-sr": "stochastic rounding of both operands",
    }
    rest = [f"{text} leaves {_percent(found[cell])}" for cell, text in names.items() if cell in found]
    start = f"{start} ({none.sigmas:.0f} standard errors from zero)."
    text = "; ".join(rest)
    return f"{start} {text[0].upper()}{text[1:]}." if text else start


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.3f} ({100 * estimate.se:.3f}) %"
