"""The prediction test, on gaps that are made from a predictor, and on gaps that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.random import default_rng

from harness import cli
from harness.base.errors import UsageError
from harness.study import gap_prediction, replay
from harness.study.gradient_error import Estimate, GradientError
from harness.study.replay import CellResult, Shared

CELLS = ("fp8", "none-f", "none-fd", "none-fdw", "sr-f", "sr-fdw", "h16-fdw", "rh16-fdw")


def replayed(name, *, across, forward):
    part = GradientError(
        along=Estimate(value=-0.01, se=0.0), across=Estimate(value=across, se=0.0), random=0.1,
        across_absolute=0.0, total=0.1, clarity=9.0,
    )  # fmt: skip
    return CellResult(
        cell=name, text="", along=part.along, across=part.across, spread=None, layers={}, seeds=[part],
        adam_along=None, adam_across=None, adam_seeds=[], loss_gap=Estimate(value=forward, se=0.0),
        shared=Shared(parts={}, adam_parts={}, alignment=None, of_gradients=None),
    )  # fmt: skip


def curves(gaps, *, noise=0.001, seeds=4):
    """Curves of eight evaluations whose late gap to fp8 is known."""
    generator = default_rng(5)
    return {
        cell: {seed: [(128 * i, 6 - 0.2 * i + gap + noise * generator.standard_normal()) for i in range(1, 9)]
               for seed in range(seeds)}
        for cell, gap in gaps.items()
    }  # fmt: skip


def test_the_quantity_that_makes_the_gap_predicts_it_and_another_one_does_not():
    generator = default_rng(1)
    forward = dict(zip(CELLS, [0.0, *generator.uniform(0.001, 0.01, 7)], strict=True))
    cells = [replayed(name, across=generator.uniform(), forward=forward[name]) for name in CELLS]
    found = gap_prediction.prediction(cells, curves({name: 5 * forward[name] for name in CELLS}))
    by = {one.name: one for one in found.predictors}
    assert by["forward loss"].r2 > 0.95 and by["forward loss"].slope == pytest.approx(5, rel=0.1)
    assert by["systematic error"].r2 < 0.3
    assert found.ceiling > 0.95
    assert by["forward loss"].r2_nearest > 0.9
    assert gap_prediction.conclusion(found).startswith("The loss gap is predicted by: forward loss")


def test_noise_of_the_gaps_bounds_what_a_predictor_can_reach():
    cells = [replayed(name, across=0.0, forward=0.001 * place) for place, name in enumerate(CELLS)]
    gaps = {name: 0.001 * place for place, name in enumerate(CELLS)}
    quiet, loud = (gap_prediction.prediction(cells, curves(gaps, noise=noise)) for noise in (1e-4, 1e-2))
    assert loud.ceiling < quiet.ceiling and quiet.ceiling > 0.9


def test_leaving_one_out_equals_a_fit_without_it():
    generator = default_rng(2)
    x, y = generator.standard_normal((2, 6))
    squares = [
        (y[i] - np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), 1), x[i])) ** 2 for i in range(6)
    ]
    means = [(y[i] - np.delete(y, i).mean()) ** 2 for i in range(6)]
    assert gap_prediction.left_out(x, y) == pytest.approx(1 - sum(squares) / sum(means))


def test_the_test_is_written_beside_the_results_of_the_replay(tmp_path):
    (tmp_path / replay.RESULTS).write_text('{"batches": 96}')
    table = tmp_path / "study.csv"
    rows = [
        f"{cell},{seed},{samples},{loss}"
        for cell, runs in curves({name: 0.01 * place for place, name in enumerate(CELLS)}).items()
        for seed, curve in runs.items()
        for samples, loss in curve
    ]
    table.write_text("\n".join(["cell,seed,samples,log_perplexity", *rows]) + "\n")
    cells = [replayed(name, across=0.0, forward=0.001 * place) for place, name in enumerate(CELLS)]
    found = gap_prediction.against(tmp_path, cells, table)
    document = json.loads((tmp_path / replay.RESULTS).read_text())
    assert document["batches"] == 96 and len(document["prediction"]["points"]) == 7
    assert next(gap_prediction.lines(found)).startswith("prediction of the loss gap from 7 cells")


def test_a_table_without_the_cells_is_refused_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "study.csv").write_text("cell,seed,samples,log_perplexity\nfp8,1,128,6.2\n")
    call = ["study", "replay", "--cells", "w-none", "--out", str(tmp_path / "out"), "--losses"]
    for table, why in (("study.csv", "fp8 is not in both"), ("none.csv", "not a table (No such file")):
        assert cli.main([*call, str(tmp_path / table)]) == 2
        assert why in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_replay_of_other_cells_is_refused():
    cells = [replayed(name, across=0.0, forward=0.0) for name in ("w-none", "w-h16")]
    with pytest.raises(UsageError, match="fp8 is not in both; replay the grid that was trained"):
        gap_prediction.prediction(cells, curves({"fp8": 0.0}))
    with pytest.raises(UsageError, match="2 cells are in both; a test needs 5"):
        few = CELLS[:3]
        gap_prediction.prediction(
            [replayed(name, across=0.0, forward=0.0) for name in few], curves(dict.fromkeys(few, 0.1))
        )
